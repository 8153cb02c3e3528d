"""Web application of the admin listener.

    GET  /                                   live page (`page/`)
    GET  /live                               stream of events for the live page (`live.py`)
    GET  /livez /readyz                      200, or 503 with the reason; no token, because probes cannot send one
    GET  /metrics                            Prometheus text (`telemetry/metrics/prometheus.py`)
    GET  /state                              state of the process as JSON, for people and scripts
    POST /reload                             200 with the changes, or 422 with every problem of the files
    GET  /keys                               public keys of signed tokens about callers, as a JSON Web Key Set
    GET  /cache                              contents of each cache as JSON
    POST /cache/purge?url=…                  drop responses by url, prefix, tag, or all (`cache.py`)
    POST /what-if                            try policies that are not in force (`what_if.py`)
    GET  /history                            figures of the last hours as JSON (`history.py`)
    GET  /advice                             values that these figures suggest for the policies (`advice.py`)
    POST /breakers/{name}/open|close|auto    force a breaker until `auto`; names as in `/state`: `upstream:payments`

Errors are problem documents (RFC 9457) that say what would be right.  `access.py` decides which requests are allowed.
No handler blocks the loop for long: documents are written in pieces, with a turn of the loop after each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any, Final, Protocol, runtime_checkable

from aiohttp import web

from sidecar.admin import page, responses
from sidecar.admin.access import Access, is_bearer, refuse_site
from sidecar.admin.advice import AdviceSource
from sidecar.admin.commands import Commands, LocalCommands, Reply
from sidecar.admin.history import HistoryKeeper
from sidecar.admin.live import Feed
from sidecar.admin.responses import HEADERS, LIVEZ, READYZ, PlainResponse, probe
from sidecar.admin.subcommand import NotDoneError
from sidecar.admin.view import AdminView, document
from sidecar.admin.what_if import MOST_TEXT, WhatIf
from sidecar.core.events import BUG
from sidecar.core.metrics import BUGS
from sidecar.telemetry.metrics.prometheus import CONTENT_TYPE, OPENMETRICS_TYPE, Page, wants_openmetrics

OPEN_TO_ALL: Final = (LIVEZ, READYZ, "/", "/keys")
"""Paths that need no token."""
PIECE: Final = 2000
"""Tokens of JSON that are encoded in one turn of the loop."""


@runtime_checkable
class ManagedRequests(Protocol):
    """Connection that must know when a request begins and ends, because its deadlines depend on it."""

    @property
    def is_half_closed(self) -> bool: ...
    def begin_request(self) -> None: ...
    def end_request(self) -> None: ...


class Admin:
    """Handlers of the application."""

    def __init__(self, view: AdminView, feed: Feed, keeper: HistoryKeeper, access: Access) -> None:
        """`access` has the token that requests need, except for probes and the files of the page."""
        self._view = view
        self._access = access
        self._feed = feed
        self._keeper = keeper
        self._metrics_page = Page(view.registry, view.env.now, view.env.sleep)
        self._files = page.load()
        self._what_if = WhatIf(view.path, view.env)
        self._advice_source = AdviceSource(view.path, view.env)
        self._commands: Commands = LocalCommands(view) if view.commands is None else view.commands

    def runner(self) -> web.AppRunner:
        """Return a runner of the application; call its `setup`, then give connections to its `server`."""
        return web.AppRunner(self.application(), access_log=None, handle_signals=False)

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(
            middlewares=[self._mark_request, self._handle_errors, self._admit], client_max_size=1024
        )
        application.router.add_get("/", self._file)
        application.router.add_get("/page/{name}", self._file)
        application.router.add_get("/live", self._live, allow_head=False)
        application.router.add_get(LIVEZ, self._probe)
        application.router.add_get(READYZ, self._probe)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/state", self._state)
        application.router.add_get("/keys", self._keys)
        application.router.add_get("/cache", self._cache)
        application.router.add_post("/cache/purge", self._purge)
        application.router.add_post("/reload", self._reload)
        application.router.add_post("/what-if", self._try)
        application.router.add_get("/history", self._history)
        application.router.add_get("/advice", self._advise)
        application.router.add_post("/breakers/{name:.+}/{action}", self._force)
        return application

    # ----- middlewares of every request

    @web.middleware
    async def _handle_errors(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        """Middleware that turns exceptions into problem documents, and reports bugs."""
        try:
            response: web.StreamResponse = await handler(request)
        except web.HTTPException as error:
            response = problem(error.status, self._advice(request, error))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except Exception as error:
            self._view.env.meter.counter(BUGS, where="admin").value += 1
            self._view.env.emit(BUG, where=f"admin {request.method} {request.path}", error=error)
            response = problem(500, "this request met a bug of the sidecar; see the log of the sidecar")
        response.headers.update(HEADERS)
        return response

    @web.middleware
    async def _mark_request(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        """Middleware that tells the connection when a request begins and ends: its deadlines depend on that."""
        transport = request.transport
        connection = transport.get_protocol() if transport is not None else None
        if not isinstance(connection, ManagedRequests):
            response: web.StreamResponse = await handler(request)
            return response
        connection.begin_request()
        try:
            result: web.StreamResponse = await handler(request)
        finally:
            connection.end_request()
        if connection.is_half_closed:
            result.force_close()
        return result

    @web.middleware
    async def _admit(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        """Middleware that refuses requests which `access.py` does not allow."""
        access, token = self._access, self._access.token
        hosts = request.headers.getall("Host", [])
        if not request.raw_path.startswith(("/", "*")):  # the absolute form, of whatever scheme
            hosts = [*hosts, request.raw_path.partition("://")[2].partition("/")[0]]
        if refusal := access.refuse_host(hosts):
            return problem(421, refusal)
        if (
            token is not None
            and request.path not in OPEN_TO_ALL
            and not request.path.startswith("/page/")
            and not is_bearer(request.headers.get("Authorization", ""), token)
        ):
            response = problem(401, "this listener has a token; send it as `Authorization: Bearer …`")
            response.headers["WWW-Authenticate"] = 'Bearer realm="admin"'
            return response
        if request.method not in ("GET", "HEAD"):
            origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
            if refusal := refuse_site(request.host, origin, site):
                return problem(403, refusal)
        result: web.StreamResponse = await handler(request)
        return result

    def _advice(self, request: web.Request, error: web.HTTPException) -> str:
        """Return the `detail` for an error of aiohttp."""
        if isinstance(error, web.HTTPMethodNotAllowed):
            return f"{request.path} takes {' or '.join(sorted(error.allowed_methods))}, not {request.method}"
        if error.status == 404:
            return (
                f"{request.path} does not exist; known are GET /, /live, /livez, /readyz, /metrics, /state, "
                "/keys, /cache, /history, /advice and POST /reload, /cache/purge, /what-if, /breakers/{name}/open, "
                "/breakers/{name}/close, /breakers/{name}/auto"
            )
        return error.reason

    # ----- handlers

    async def _file(self, request: web.Request) -> web.Response:
        file = self._files.get(request.match_info.get("name", "index.html"))
        if file is None:
            raise web.HTTPNotFound
        return web.Response(
            body=file.body, headers={**page.SECURITY, "Content-Type": f"{file.content_type}; charset=utf-8"}
        )

    async def _live(self, request: web.Request) -> web.StreamResponse:
        feed = self._feed
        if feed.is_full:
            raise web.HTTPServiceUnavailable(reason=f"{feed.max_pages} pages are open already; close one of them")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", **HEADERS})
        with feed.page(), suppress(ConnectionError):  # the page may be closed at any time
            await response.prepare(request)
            async with aclosing(feed.messages()) as messages:
                async for message in messages:
                    await response.write(message)
        return response

    async def _probe(self, request: web.Request) -> web.Response:
        return to_aiohttp(probe(self._view, request.path))

    async def _metrics(self, request: web.Request) -> web.Response:
        openmetrics = wants_openmetrics(request.headers.get("Accept", ""))
        kind = OPENMETRICS_TYPE if openmetrics else CONTENT_TYPE
        await self._view.refresh()
        body = await self._metrics_page.text(openmetrics=openmetrics)
        return web.Response(body=body, headers={"Content-Type": kind, "Vary": "Accept"})

    async def _state(self, _: web.Request) -> web.Response:
        return await self._json(await document(self._view))

    async def _keys(self, _: web.Request) -> web.Response:
        status, keys = await self._commands.call("keys")
        return await self._reply((status, {"keys": keys} if status == 200 else keys))

    async def _cache(self, _: web.Request) -> web.Response:
        return await self._reply(await self._commands.call("caches"))

    async def _purge(self, request: web.Request) -> web.Response:
        status, purged = await self._commands.call("purge", dict(request.query))
        return await self._reply((status, {"purged": purged} if status == 200 else purged))

    async def _reload(self, _: web.Request) -> web.Response:
        result = await self._view.reload()
        if result.problems:
            problems = [self._view.secrets.text(str(line)) for line in result.problems]
            detail = f"{len(problems)} problem(s) in the policy files; the running policies stay as they are"
            return problem(422, detail, problems=problems)
        return await self._json(self._view.secrets.plain(result.describe()))

    async def _try(self, request: web.Request) -> web.Response:
        body = b""
        async for piece in request.content.iter_any():
            body += piece
            if len(body) > MOST_TEXT:
                return problem(413, f"the policies have more than {MOST_TEXT} bytes; try fewer")
        try:
            return await self._json(self._view.secrets.plain(await self._what_if.answer(body)))
        except NotDoneError as error:
            return problem(error.status, str(error))

    async def _history(self, _: web.Request) -> web.Response:
        history = self._keeper.history
        if history is None:
            return problem(404, "`admin.history` is off; leave it out of the policies to keep figures")
        return web.Response(body=history.document(), content_type="application/json")

    async def _advise(self, _: web.Request) -> web.Response:
        try:
            return await self._json(self._view.secrets.plain(await self._advice_source.answer(self._keeper.history)))
        except NotDoneError as error:
            return problem(error.status, str(error))

    async def _force(self, request: web.Request) -> web.Response:
        name, action = request.match_info["name"], request.match_info["action"]
        return await self._reply(await self._commands.call("force", name, action))

    async def _reply(self, reply: Reply) -> web.Response:
        """Return the reply to a command as a response."""
        status, result = reply
        return await self._json(result) if status == 200 else problem(status, **result)

    async def _json(self, document: dict[str, Any]) -> web.Response:
        """Return indented JSON, encoded in pieces, because a large document would block the loop."""
        pieces: list[str] = []
        for token in json.JSONEncoder(indent=2, allow_nan=False).iterencode(document):
            pieces.append(token)
            if len(pieces) % PIECE == 0:
                await self._view.env.sleep(0)
        pieces.append("\n")
        return web.Response(text="".join(pieces), content_type="application/json")


def to_aiohttp(response: PlainResponse) -> web.Response:
    """Return a response as aiohttp's."""
    return web.Response(status=response.status, text=response.text, content_type=response.content_type)


def problem(status: int, detail: str, **members: Any) -> web.Response:
    """Return a problem document as a response of aiohttp."""
    return to_aiohttp(responses.problem(status, detail, **members))
