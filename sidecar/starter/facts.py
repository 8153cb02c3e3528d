"""Facts about a service and its peers, each with its place in a file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from yaml.nodes import Node

NOT_HTTP: Final = {
    "postgres": 5432, "postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mongo": 27017, "redis": 6379, "valkey": 6379,
    "memcached": 11211, "rabbitmq": 5672, "kafka": 9092, "nats": 4222, "zookeeper": 2181, "cassandra": 9042,
}  # fmt: skip
"""Images whose service does not speak HTTP, and its port."""
URL: Final = re.compile(r"(https?|grpc|grpcs)://([A-Za-z0-9][A-Za-z0-9._-]*)(?::(\d{1,5}))?(?=[/?#]|$)")
ADDRESS: Final = re.compile(r"([A-Za-z][A-Za-z0-9._-]*):(\d{1,5})")
PROBE: Final = re.compile(r"https?://(?:localhost|127\.0\.0\.1|\[::1\]|0\.0\.0\.0)(?::(\d{1,5}))?(/[^\s'\"|;&]*)")
"""Address of a health check that a command asks."""
UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]+")


class StarterError(Exception):
    """Files from which no policy can be made; the text says where and why."""


@dataclass
class Peer:
    """Service to which ours sends requests."""

    name: str
    """Name of its upstream."""
    host: str
    """Host that ours asks for."""
    port: int
    scheme: str = "http"
    is_http2: bool = False
    place: str = ""
    """Place that names it: `docker-compose.yml:12`."""


@dataclass
class Operation:
    """Path of an OpenAPI document with some of its methods."""

    name: str
    """Name of its route."""
    path: str
    methods: list[str]
    streams: bool
    """True if a response is a stream of events, which may last."""
    place: str
    is_pattern: bool = False
    """True if the path is a regular expression, because a parameter is only a part of a segment."""


@dataclass
class Facts:
    """Facts about one service."""

    name: str
    source: str
    """Names of the files."""
    port: int = 0
    """Port on which it listens; 0 if no file states it."""
    port_place: str = ""
    entry_place: str = ""
    """Place of the port by which others reach the service now, past the sidecar; empty if no file states one."""
    health: str = ""
    """Path of its health check; empty if no file states one."""
    health_place: str = ""
    is_http2: bool = False
    """True if it speaks HTTP/2 without TLS, as services of gRPC do."""
    peers: dict[str, Peer] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Findings that are not in the policy, each with its place and reason."""

    def add_peer(self, peer: Peer) -> None:
        """Add a peer unless it is known or ours."""
        if peer.name not in (self.name, "app") and peer.name not in self.peers:
            self.peers[peer.name] = peer


def place(file: str, node: Node) -> str:
    """Return the place of a node: `docker-compose.yml:12`."""
    return f"{file}:{node.start_mark.line + 1}"


def safe_name(text: str) -> str:
    """Return a text as the name of a route or an upstream."""
    return UNSAFE.sub("-", text).strip("-._")[:50].strip("-._") or "all"


def number(text: str) -> int:
    """Return a port; 0 if the text is none."""
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text[:9]) < 65536 else 0
