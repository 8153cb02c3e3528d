"""Connections that the kernel has redirected to a listener with `original_destination`.

    sniff         protocol of a connection by its first bytes, without I/O
    destination   original destination of a redirected socket
    capture       settings, counters and limits of one listener
    connection    captured connection until its protocol is known: start reading here
    passage       captured connection and one to its destination, joined as TCP

HTTP goes on in `downstream/connection` and `downstream/http2`.  Requests without a route: `control/passthrough`.
Rules of the kernel: `process/redirect`.
"""
