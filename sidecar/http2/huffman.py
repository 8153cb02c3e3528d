"""Huffman code of HPACK (RFC 7541 5.2 and Appendix B), which is canonical: the lengths of the codes say it all.

Decoding reads half a byte a step.  The automaton has a fixed size, whatever a peer sends.
"""

from __future__ import annotations

from typing import Final

BY_LENGTH: Final = (
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b'!"()?'),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\x00$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, b"\\\xc3\xd0"),
    (20, b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2"),
    (21, b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6"),
    (22, b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9"),
    (23, b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf"
         b"\xc5\xe7\xef"),
    (24, b"\x09\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed"),
    (25, b"\xc7\xcf\xea\xeb"),
    (26, b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff"),
    (27, b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe"),
    (28, b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f"
         b"\x7f\xdc\xf9"),
    (30, b"\n\r\x16"),
)  # fmt: skip
"""Octets by the bits of their code, in order; the end of string (EOS) comes last, with 30 bits."""
EOS: Final = 256
ACCEPTS: Final = 512
"""Bit of a step after which a string may end: what is left of its last byte is a beginning of EOS (RFC 7541 5.2)."""
NEXT: Final = 10
"""Bits by which the state that follows is shifted in a step; the octet decoded, plus one, is in the lowest nine."""
FAILS: Final = -1


def make_codes() -> list[tuple[int, int]]:
    """Return code and bits of every octet, and of EOS as the last."""
    codes = [(0, 0)] * 257
    code = bits = 0
    for length, octets in BY_LENGTH:
        code <<= length - bits
        bits = length
        for octet in octets:
            codes[octet] = (code, bits)
            code += 1
    codes[EOS] = (code, bits)
    return codes


CODES: Final = make_codes()


def make_steps() -> list[int]:
    """Return the automaton: by sixteen times the state plus half a byte, the step that it makes."""
    children: list[list[int]] = [[-1, -1]]
    symbols = [-1]
    for symbol, (code, bits) in enumerate(CODES):
        node = 0
        for shift in range(bits - 1, -1, -1):
            bit = (code >> shift) & 1
            if children[node][bit] < 0:
                children[node][bit] = len(children)
                children.append([-1, -1])
                symbols.append(-1)
            node = children[node][bit]
        symbols[node] = symbol
    inner = [node for node in range(len(children)) if symbols[node] < 0]
    state_of = {node: state for state, node in enumerate(inner)}
    padding = {0}
    node = 0
    for _ in range(7):
        node = children[node][1]
        padding.add(node)
    steps: list[int] = []
    for start in inner:
        for nibble in range(16):
            node, found, fails = start, 0, False
            for shift in (3, 2, 1, 0):
                node = children[node][(nibble >> shift) & 1]
                symbol = symbols[node]
                if symbol == EOS:
                    fails = True
                    break
                if symbol >= 0:
                    node, found = 0, symbol + 1
            steps.append(FAILS if fails else state_of[node] << NEXT | (ACCEPTS if node in padding else 0) | found)
    return steps


STEPS: Final = make_steps()


def decode(data: bytes) -> bytes | None:
    """Return the string that `data` encodes; None if it has EOS in it, or padding that is none."""
    steps = STEPS
    out = bytearray()
    step = ACCEPTS
    for byte in data:
        step = steps[(step >> NEXT) << 4 | byte >> 4]
        if step < 0:
            return None
        found = step & 511
        if found:
            out.append(found - 1)
        step = steps[(step >> NEXT) << 4 | byte & 15]
        if step < 0:
            return None
        found = step & 511
        if found:
            out.append(found - 1)
    return bytes(out) if step & ACCEPTS else None


def encode(text: bytes) -> bytes:
    """Return the string encoded, with its padding."""
    value = bits = 0
    for octet in text:
        code, length = CODES[octet]
        value = value << length | code
        bits += length
    padding = -bits % 8
    return ((value + 1 << padding) - 1).to_bytes((bits + padding) // 8, "big")
