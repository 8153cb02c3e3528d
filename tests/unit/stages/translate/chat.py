"""Service of streams for the tests of WebSockets: its descriptor set."""

from __future__ import annotations

from tests.support.protos import compile_proto

PROTO = """
syntax = "proto3";
package chat;
message Line { string text = 1; string room = 2; int64 number = 3; }
service Chat {
  rpc Talk(stream Line) returns (stream Line) { option (google.api.http) = { post: "/chat/{room}" body: "*" }; }
  rpc Post(stream Line) returns (Line) { option (google.api.http) = { get: "/post/{room}" }; }
  rpc Hear(Line) returns (stream Line) { option (google.api.http) = { get: "/hear/{room}" }; }
  rpc Find(Line) returns (stream Line) { option (google.api.http) = { post: "/find" body: "*" }; }
  rpc Films(stream google.api.HttpBody) returns (stream google.api.HttpBody) {
    option (google.api.http) = { post: "/films" body: "*" };
  }
  rpc Get(Line) returns (Line) { option (google.api.http) = { get: "/lines/{room}" }; }
}
"""
DATA = compile_proto(PROTO)
