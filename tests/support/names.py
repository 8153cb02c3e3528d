"""Name server on loopback that can hang, send errors and garbage, and change its records.

async with NameServer({"app.test": ["127.0.0.1"]}) as server:
    ...                                    # server.address goes into `resolve.nameservers`
    server.records["app.test"] = ["127.0.0.2"]
    server.hangs.add("app.test")
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, SRV, A, DNSRecord

Send = Callable[[bytes], Any]


class NameServer:
    """Name server over UDP and TCP; queries are written without the dot at their end."""

    def __init__(self, records: Mapping[str, list[str]], ttl: int = 60) -> None:
        self.records = dict(records)
        """Addresses of names; a name that is not here does not exist."""
        self.aliases: dict[str, str] = {}
        """Names that are aliases of other names (CNAME)."""
        self.services: dict[str, list[tuple[int, int, int, str]]] = {}
        """SRV records of names: priority, weight, port and target."""
        self.has_strays = False
        """True to send an answer with another ID, and other records, before each answer."""
        self.ttl = ttl
        """Time to live of every record, in seconds."""
        self.hangs: set[str] = set()
        """Queries that get no answer: names, or a name and a type such as `app.test AAAA`."""
        self.delay = 0.0
        """Seconds before each answer."""
        self.rcode = ""
        """Error that every query gets, such as SERVFAIL; empty for none."""
        self.garbage = b""
        """Bytes that every query gets instead of an answer; empty for none."""
        self.asked: list[str] = []
        """Queries so far: name and type."""
        self.over_tcp = 0
        """Number of queries over TCP."""
        self.address = ""
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> NameServer:
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._serve_tcp, "127.0.0.1", 0)
        port = self._tcp.sockets[0].getsockname()[1]
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), ("127.0.0.1", port))
        self.address = f"127.0.0.1:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._udp.close()
        self._tcp.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        self._clients.add(task)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                self.over_tcp += 1
                self.take(
                    await reader.readexactly(size), lambda data: writer.write(len(data).to_bytes(2, "big") + data)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._clients.discard(task)
            writer.close()

    def count(self, query: str) -> int:
        """Return the number of queries of a name and type, such as `app.test A`."""
        return self.asked.count(query)

    def queries(self, kind: str) -> list[str]:
        """Return the names of the queries of a type, such as `A`."""
        return [name for name, _, asked in (query.partition(" ") for query in self.asked) if asked == kind]

    def take(self, data: bytes, send: Send, limit: int = 65535) -> None:
        """Answer one query, in at most `limit` bytes."""
        request = DNSRecord.parse(data)
        name, kind = str(request.q.qname).rstrip(".").lower(), QTYPE[request.q.qtype]
        self.asked.append(f"{name} {kind}")
        if not {name, f"{name} {kind}"} & self.hangs:
            answer = self.garbage or self._answer(request, name, kind, limit)
            if self.has_strays:
                stray = request.reply()
                stray.header.id ^= 0x5555
                stray.add_answer(RR(name, QTYPE.A, rdata=A("192.0.2.66"), ttl=3600))
                asyncio.get_running_loop().call_later(self.delay, send, stray.pack())
            asyncio.get_running_loop().call_later(self.delay, send, answer)

    def _answer(self, request: DNSRecord, name: str, kind: str, limit: int) -> bytes:
        reply = request.reply()
        if self.rcode:
            reply.header.rcode = getattr(RCODE, self.rcode)
            return reply.pack()
        owner = name
        if (target := self.aliases.get(name)) is not None:
            reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME(target), ttl=self.ttl))
            owner = target
        if owner not in self.records and owner not in self.services:
            reply.header.rcode = RCODE.NXDOMAIN
        for address in self.records.get(owner, []):
            if (":" in address) is (kind == "AAAA"):
                data = AAAA(address) if ":" in address else A(address)
                reply.add_answer(RR(owner, getattr(QTYPE, kind), rdata=data, ttl=self.ttl))
        for service in self.services.get(owner, []) if kind == "SRV" else []:
            reply.add_answer(RR(owner, QTYPE.SRV, rdata=SRV(*service), ttl=self.ttl))
        whole: bytes = reply.pack()
        if len(whole) <= limit:
            return whole
        cut = request.reply()
        cut.header.tc = 1
        short: bytes = cut.pack()
        return short


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        def send(answer: bytes) -> None:
            if not self._transport.is_closing():
                self._transport.sendto(answer, address)

        self._server.take(data, send, 1232)
