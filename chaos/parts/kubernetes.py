"""API server of Kubernetes, as far as sidecars need it: EndpointSlices listed and watched, pods and nodes.

It is written from the published OpenAPI document and the description of watches.  It can expire old versions, drop and
refuse connections, hang, answer with errors, and send what no API server would.

    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1"])
        server.delete("orders-1")
        server.url                                   # goes into `kubernetes.api.url`
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from chaos.parts.part import PartEnv, split

SLICES = "/apis/discovery.k8s.io/v1/namespaces/"


def endpoint(address: str, zone: str = "", hints: Sequence[str] = (), **conditions: bool | None) -> dict[str, Any]:
    """Return an endpoint of a slice; `conditions` are those of the API, by default `ready`."""
    found: dict[str, Any] = {
        "addresses": [address],
        "conditions": conditions or {"ready": True, "serving": True, "terminating": False},
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": f"pod-{address}", "uid": address},
    }
    if zone:
        found["zone"] = zone
    if hints:
        found["hints"] = {"forZones": [{"name": name} for name in hints]}
    return found


class ApiServer:
    """API server on loopback, or on a given address.

    - `token`: bearer token that requests must have; empty for any.
    - `slices`: slices by namespace and name.
    - `objects`: other objects by their path, such as `/api/v1/nodes/node-1`.
    - `fault`: status that every request gets; 0 for none.  `retry_after`: seconds of its `Retry-After`.
    - `hangs`: True if requests get no answer.
    - `garbage`: bytes that a watch gets instead of its lines.
    - `watch_seconds`: longest time of a watch, beside `timeoutSeconds`.
    - `expires_by_status`: True to answer 410 to a watch from an old version, False to send it an ERROR event.
    - `page`: most slices in one page of a list, beside `limit`.
    - `requests`: requests so far, path and query.
    """

    def __init__(self, token: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.token = token
        self.slices: dict[tuple[str, str], dict[str, Any]] = {}
        self.objects: dict[str, dict[str, Any]] = {}
        self.fault = 0
        self.retry_after = 0
        self.hangs = False
        self.garbage = b""
        self.watch_seconds = 3600.0
        self.expires_by_status = False
        self.page = 500
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.tokens: list[str] = []
        self.version = 1000
        self._oldest = 1000
        self._log: list[tuple[int, str, dict[str, Any]]] = []
        self._news = asyncio.Event()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._address = ("127.0.0.1", 0)

    # ----- start and end

    async def __aenter__(self) -> ApiServer:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def listen(self, host: str = "", port: int = 0) -> None:
        """Accept connections, by default on the address of the last time."""
        if host:
            self._address = (host, port)
        self._server = await asyncio.start_server(self._serve, *self._address, ssl=self._tls)
        self._address = self._server.sockets[0].getsockname()[:2]

    async def close(self) -> None:
        """Refuse connections and drop those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()
        tasks = list(self._clients)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def drop(self) -> None:
        """Reset all open connections."""
        for writer in list(self._clients.values()):
            writer.transport.abort()

    @property
    def url(self) -> str:
        host, port = self._address
        return f"{'http' if self._tls is None else 'https'}://{host}:{port}"

    @property
    def address(self) -> str:
        return f"{self._address[0]}:{self._address[1]}"

    # ----- objects

    def put(
        self,
        name: str,
        endpoints: Sequence[dict[str, Any]] = (),
        *,
        ready: Sequence[str] = (),
        port: int = 8080,
        ports: Sequence[dict[str, Any]] | None = None,
        family: str = "IPv4",
        service: str = "orders",
        namespace: str = "shop",
    ) -> None:
        """Create or replace a slice with these endpoints, and with ready ones at these addresses."""
        self.version += 1
        known = (namespace, name) in self.slices
        slice_ = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": service},
                "resourceVersion": str(self.version),
            },
            "addressType": family,
            "endpoints": [*endpoints, *(endpoint(address) for address in ready)],
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}] if ports is None else list(ports),
        }
        self.slices[namespace, name] = slice_
        self._record("MODIFIED" if known else "ADDED", slice_)

    def delete(self, name: str, namespace: str = "shop") -> None:
        """Delete a slice."""
        self.version += 1
        gone = self.slices.pop((namespace, name))
        gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}}
        self._record("DELETED", gone)

    def bookmark(self) -> None:
        """Send a bookmark to all watches."""
        bookmark = {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1"}
        self._record("BOOKMARK", {**bookmark, "metadata": {"resourceVersion": str(self.version)}})

    def expire(self) -> None:
        """Forget all versions but the present one: watches from older ones get 410 Gone."""
        self.version += 1
        self._oldest = self.version
        self._log = []

    def error(self, code: int, reason: str) -> None:
        """Send an ERROR event to all watches."""
        self._record("ERROR", {"kind": "Status", "code": code, "reason": reason, "message": "made for a test"})

    def _record(self, kind: str, found: dict[str, Any]) -> None:
        self._log.append((self.version, kind, found))
        self._news.set()
        self._news = asyncio.Event()

    # ----- requests

    @property
    def lists(self) -> int:
        """Number of lists so far, without further pages."""
        return sum(p.startswith(SLICES) and "watch" not in q and "continue" not in q for p, q in self.requests)

    @property
    def watches(self) -> list[str]:
        """Versions from which watches began."""
        return [query["resourceVersion"] for _, query in self.requests if "watch" in query]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        self._clients[task] = writer
        try:
            while await self._answer(await reader.readuntil(b"\r\n\r\n"), writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            del self._clients[task]
            with contextlib.suppress(Exception):
                writer.close()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False if the connection ends with it."""
        first, *fields = head.decode().split("\r\n")
        target = urlsplit(first.split(" ")[1])
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        self.requests.append((target.path, query))
        authorization = next((f.partition(": ")[2] for f in fields if f.lower().startswith("authorization: ")), "")
        self.tokens.append(authorization.removeprefix("Bearer "))
        if self.hangs:
            await asyncio.Event().wait()
        if self.fault:
            return await self._send(writer, self.fault, status(self.fault, "made for a test"))
        if self.token and authorization != f"Bearer {self.token}":
            return await self._send(writer, 401, status(401, "Unauthorized"))
        if not target.path.startswith(SLICES):
            found = self.objects.get(target.path)
            return await self._send(writer, 200 if found else 404, found or status(404, "not found"))
        namespace = target.path.removeprefix(SLICES).partition("/")[0]
        service = query.get("labelSelector", "").partition("=")[2]
        if query.get("watch") in ("1", "true"):
            return await self._watch(writer, namespace, service, query)
        return await self._list(writer, namespace, service, query)

    async def _list(self, writer: asyncio.StreamWriter, namespace: str, service: str, query: dict[str, str]) -> bool:
        names = sorted(key for key, found in self.slices.items() if self._fits(found, namespace, service))
        version, _, begin = query.get("continue", f"{self.version}:0").partition(":")
        if int(version) < self._oldest:
            return await self._send(writer, 410, status(410, "The provided continue parameter is too old"))
        start, size = int(begin), min(self.page, int(query.get("limit", "500")))
        metadata = {"resourceVersion": version}
        if start + size < len(names):
            metadata["continue"] = f"{version}:{start + size}"
        items = [self.slices[name] for name in names[start : start + size]]
        answer = {
            "kind": "EndpointSliceList",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": metadata,
            "items": items,
        }
        return await self._send(writer, 200, answer)

    @staticmethod
    def _fits(found: dict[str, Any], namespace: str, service: str) -> bool:
        metadata = found["metadata"]
        named = metadata.get("labels", {}).get("kubernetes.io/service-name")
        return (metadata.get("namespace"), named) == (namespace, service)

    async def _watch(self, writer: asyncio.StreamWriter, namespace: str, service: str, query: dict[str, str]) -> bool:
        version = int(query.get("resourceVersion") or self.version)
        is_expired = version < self._oldest
        if is_expired and self.expires_by_status:
            return await self._send(writer, 410, status(410, "too old resource version"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        if is_expired:
            event = {"type": "ERROR", "object": {**status(410, "too old resource version"), "reason": "Expired"}}
            self._send_chunk(writer, json.dumps(event).encode() + b"\n")
            self._send_chunk(writer, b"")
            return True
        if self.garbage:
            self._send_chunk(writer, self.garbage)
        ends = asyncio.get_running_loop().time() + min(self.watch_seconds, float(query.get("timeoutSeconds", "300")))
        at = next((i for i, (v, _, _) in enumerate(self._log) if v > version), len(self._log))
        log = self._log
        while True:
            if log is not self._log:
                log, at = self._log, 0
            news = self._news
            for _, kind, found in self._log[at:]:
                if kind in ("BOOKMARK", "ERROR") or self._fits(found, namespace, service):
                    self._send_chunk(writer, json.dumps({"type": kind, "object": found}).encode() + b"\n")
            at = len(self._log)
            await writer.drain()
            left = ends - asyncio.get_running_loop().time()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), max(0.0, left))
            if left <= 0:
                self._send_chunk(writer, b"")
                return True

    @staticmethod
    def _send_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def _send(self, writer: asyncio.StreamWriter, code: int, answer: dict[str, Any]) -> bool:
        body = json.dumps(answer).encode()
        after = f"retry-after: {self.retry_after}\r\n" if self.retry_after else ""
        head = f"HTTP/1.1 {code} Status\r\ncontent-type: application/json\r\n{after}content-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return True


def status(code: int, message: str) -> dict[str, Any]:
    """Return a Status object."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}


class ApiServerPart:
    """API server of a scenario: it lists the replicas of one service, each in a slice of its own.

    - `spec`: `service`, and its `endpoints` by replica: address and state, which is `ready`, `terminating` or `gone`.
    """

    def __init__(self, spec: dict[str, Any], env: PartEnv) -> None:
        self.spec = spec
        self.server = ApiServer()
        # Versions grow also over a restart, after which the server does not know older ones.
        self.server.version = self.server._oldest = int(env.now() * 1000)

    async def start(self) -> list[str]:
        for replica, (address, state) in self.spec["endpoints"].items():
            self._put(replica, address, state)
        await self.server.listen(*split(self.spec["address"]))
        return [self.server.address]

    async def do(self, command: str, **arguments: Any) -> Any:
        """Change a replica's state."""
        if command != "endpoint":
            raise ValueError(f"an API server knows no {command}")
        self._put(arguments["replica"], arguments["address"], arguments["state"])

    def _put(self, replica: str, address: str, state: str) -> None:
        host, port = split(address)
        is_ready = state == "ready"
        found = endpoint(host, ready=is_ready, serving=True, terminating=not is_ready)
        endpoints = [] if state == "gone" else [found]
        self.server.put(replica, endpoints, port=port, service=self.spec["service"], namespace="chaos")

    async def stop(self) -> None:
        await self.server.close()
