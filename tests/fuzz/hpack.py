"""Target: header blocks of a connection.

The laws: nothing is raised but a `ConnectionFault`; the table, the fields kept and what is remembered
stay bounded; what decodes again decodes to the same; the fields that are valid go out and come back the same; each line
matches the grammar of HTTP/1.1.
"""

from __future__ import annotations

import re

from tests.fuzz.harness import fuzz, instrumented

with instrumented():
    from sidecar.core.http1 import FIELDS
    from sidecar.http2.errors import ConnectionFault
    from sidecar.http2.heads import request_of, response_of, trailers_of
    from sidecar.http2.hpack import TABLE_SIZE, Decoder, Encoder
    from sidecar.http2.limits import Limits

LINES = re.compile(FIELDS)
LIMITS = Limits(max_head=2000, max_fields=20)


def check(data: bytes) -> None:
    """Blocks are cut by the first byte of each, their length."""
    decoder, again, encoder = Decoder(2000, 25), Decoder(2000, 25), Encoder()
    there = Decoder(1 << 20, 1000)
    while data:
        size, block, data = data[0], data[1 : 1 + data[0]], data[1 + data[0] :]
        if size % 8 == 0:
            encoder.resize(size * 32)
        try:
            decoded = decoder.decode(block)
        except ConnectionFault:
            return
        other = again.decode(bytes(block))
        assert [(x.name, x.value) for x in decoded.fields] == [(x.name, x.value) for x in other.fields]
        assert sum(field.size for field in decoded.fields) <= 2000
        assert 0 <= decoder.table_size <= TABLE_SIZE
        for head in (request_of(decoded, LIMITS), response_of(decoded, LIMITS), trailers_of(decoded, LIMITS)):
            if not head.error:
                assert LINES.fullmatch(head.lines), head.lines
                assert b"\r\n" not in head.path + head.authority + head.method
        trailers = trailers_of(decoded, LIMITS)
        if not trailers.error:
            sent = there.decode(encoder.encode([], trailers.lines, trailers.sensitive))
            assert b"".join(field.line for field in sent.fields) == trailers.lines
            assert there.table_size == encoder.table_size


if __name__ == "__main__":
    fuzz("hpack", check)
