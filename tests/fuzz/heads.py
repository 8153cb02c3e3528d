"""Target: the quick readers of ordinary heads, compared with the grammar.

Laws: a head that a reader accepts has the same result from the grammar, octet for octet; nothing is raised.  The
readers are the one that keeps lines, and the one in C if the request path is compiled.

    python -m tests.fuzz.heads 60            # coverage-guided, as every target
    python -m tests.fuzz.heads compiled 60   # made heads, from one seed; needs the readers in C

Coverage does not cover C, so the second form generates the heads itself: ordinary ones, with small hostile changes.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time

from tests.fuzz.harness import SEED, fuzz, instrumented

IS_MADE = sys.argv[1:2] == ["compiled"]
"""True for the second form."""

with contextlib.nullcontext() if IS_MADE else instrumented():
    from sidecar.downstream.request_head import CLAIM_PREFIXES, CLAIMS, FOR_CACHES, OTHERS, READ
    from tests.support import heads
    from tests.support.heads import REQUEST_READERS, RESPONSE_READERS, wall

METHODS = (b"GET",) * 8 + (b"POST", b"HEAD", b"PURGE", b"OPTIONS", b"get", b"M-SEARCH", b"!", b"")
TARGETS = (b"/", b"/a/b?c=d&e", b"*", b"http://a/b", b"/%2e%2e/a", b"/../a", b"a:80", b"/\\", b'/"', b"/?", b"/#", b"")
KNOWN = sorted(READ | CLAIMS | FOR_CACHES | OTHERS) + [prefix + b"a" for prefix in CLAIM_PREFIXES]
NAMES = (b"accept", b"server", b"etag", b"set-cookie", b"x-a", b"link", b"a", b"x-request", b"x-forward", b"ssl", b"1-")
ODD_NAMES = (
    b"date",
    b"x_real_ip",
    b"content.length",
    b"transfer_encoding",
    b"a b",
    b"a\xff",
    b"x-remote-extra-a%",
    b"",
)
VALUES = (b"", b"a", b"0", b"now", b"a, b; c=d", b'"\xff"', b"x" * 60, b"x" * 130, b"a\tb", b":", b"close", b"\x80")
FRAMING = (
    *(b"Content-Length: 12", b"content-length:0", b"CONTENT-LENGTH: 000000000000000012", b"Content-Length: +1"),
    *(b"Content-Length: 1234567890123456789", b"Content-Length:", b"Transfer-Encoding: chunked", b"Connection: close"),
    *(b"transfer-encoding:CHUNKED\t", b"Transfer-Encoding: gzip, chunked", b"Connection: keep-alive", b"Connection:"),
    *(
        b"Connection: Close, x-a",
        b"Connection: Upgrade",
        b"Keep-Alive: timeout=5",
        b"Date: then",
        b"Trailer: a",
        b"Date: ",
    ),
)
SPACES = (b"", b"", b" ", b" ", b" ", b"\t", b"  ")
STATUSES = (b"200 OK",) * 6 + (
    b"404",
    b"204 ",
    b"503 Out of order",
    b"100 Go",
    b"426 Upgrade",
    b"600",
    b"099",
    b"20",
    b"",
)
VERSIONS = (b"HTTP/1.1",) * 20 + (b"HTTP/1.0", b"HTTP/2.0", b"http/1.1", b"HTTP/1.10")
HOSTILE = (
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\0", b"\x0b", b"\x7f", b"\x80", b"\xff", b":", b","),
    *(b"_", b"-", b".", b"/", b"#", b"%", b"1", b"a", b";", b"Content-Length: 1\r\n", b"Date: x\r\n", b"a: b\r\n"),
    *(b"," * 1100, b"a:\r\n" * 260, b"x" * 1100, b"/" * 600, b"&" * 600),
)


def check(data: bytes) -> None:
    expected, answered = heads.request(data), heads.response(data)
    for name, take_request in REQUEST_READERS.items():
        taken = take_request(data)
        assert taken is None or taken == expected, (name, taken, expected)
    for name, take_response in RESPONSE_READERS.items():
        for _ in range(3):  # the readers cache a head once they have seen it
            read = take_response(data, wall)
            assert read is None or read == answered, (name, read, answered)


def make(chance: random.Random) -> bytes:
    """Return a head, mostly ordinary, and what follows it."""
    spell = chance.choice((bytes.lower, bytes.title, bytes.upper))
    if chance.random() < 0.5:
        lines = [b"%b %b %b" % (chance.choice(METHODS), chance.choice(TARGETS), chance.choice(VERSIONS)), b"Host: a"]
    else:
        lines = [b"%b %b" % (chance.choice(VERSIONS), chance.choice(STATUSES)), b"Date: now"]
    for _ in range(chance.randrange(8)):
        names = chance.choice((KNOWN,) * 7 + (NAMES,) * 12 + (ODD_NAMES,))
        spaces, value = chance.choice(SPACES), chance.choice(VALUES)
        lines.append(b"%b:%b%b%b" % (spell(chance.choice(names)), spaces, value, chance.choice(SPACES)))
    if chance.random() < 0.8:
        lines.insert(chance.randrange(1, len(lines) + 1), chance.choice(FRAMING))
    data = bytearray(b"\r\n".join(lines) + b"\r\n\r\n" + chance.choice((b"", b"", b"ab", b"GET / HTTP/1.1\r\n\r\n")))
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 3))):
        at, how = chance.randrange(len(data) + 1), chance.randrange(4)
        if how == 0:
            data[at : at + 1] = chance.choice(HOSTILE)
        elif how == 1:
            data[at:at] = chance.choice(HOSTILE)
        elif how == 2:
            del data[at : at + chance.choice((1, 1, 2, 8))]
        else:
            data[at:at] = data[chance.randrange(len(data) + 1) :][: chance.randrange(16)]
    return bytes(data)


def run(said: str) -> None:
    """Check for so many seconds, or so many heads (`runs=1000`), until one fails; print how many were accepted."""
    chance = random.Random(SEED)
    runs = int(said[5:]) if said.startswith("runs=") else None
    end = time.monotonic() + (0.0 if runs is not None else float(said))
    done = requests = responses = 0
    take_request, take_response = REQUEST_READERS["compiled"], RESPONSE_READERS["compiled"]
    while done < runs if runs is not None else time.monotonic() < end:
        data = make(chance)
        try:
            check(data)
        except Exception:
            print(f"heads: {data!r}", file=sys.stderr)
            raise
        done += 1
        requests += take_request(data) is not None
        responses += take_response(data, wall) is not None
    print(f"heads: {done} made, {requests} requests and {responses} responses taken in C, no difference to the grammar")
    if not requests or not responses:
        raise SystemExit("heads: the readers in C take nothing")


if __name__ == "__main__":
    if not IS_MADE:
        fuzz("heads", check)
    elif heads.IS_COMPILED:
        run(sys.argv[2] if len(sys.argv) > 2 else "10")
    else:
        print("heads: SKIPPED: the readers in C are not built (`make compiled`)")
