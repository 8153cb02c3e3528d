"""Tests of the HTTP/1.1 grammar as bytes, without sockets: cut everywhere, hostile, and beside another parser."""
