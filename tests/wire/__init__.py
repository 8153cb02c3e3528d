"""The HTTP/1.1 grammar as bytes: whole, cut everywhere, hostile, and against another parser.  No sockets."""
