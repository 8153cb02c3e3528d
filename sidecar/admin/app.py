"""The admin listener: is it alive and ready, what does it count, what does it know; reload, and breakers by hand.

    GET  /                                   the live page (`page/`), which reads
    GET  /live                               the stream of its events (`live.py`)
    GET  /livez /readyz                      200, or 503 and why; without a token, since probes have none
    GET  /metrics                            Prometheus text (`telemetry.prometheus`)
    GET  /state                              JSON for people and scripts: everything that has state describes itself
    POST /reload                             200 and what changed, or 422 and every problem of the files
    GET  /cache                              JSON: what each cache holds
    POST /cache/purge?url=…                  drop answers by url, prefix, tag or everything (`admin_cache`)
    POST /breakers/{name}/open|close|auto    by hand, until `auto`; names as `/state` has them: `upstream:payments`

Errors are problem documents (RFC 9457) that say what would be right.  Who may ask is for `admin_access` to say.  No
handler holds the loop for more than a few milliseconds: long documents are written in pieces with a turn of the loop
between them.  The listener knows the rest of the process only through the `AdminView` it is handed.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from sidecar.admin import page
from sidecar.admin.access import cross_site, is_bearer
from sidecar.admin.cache import Caches
from sidecar.admin.live import Feed
from sidecar.admin.view import AdminView, document, name_of
from sidecar.core.events import BUG
from sidecar.core.metrics import BUGS
from sidecar.telemetry.metrics.prometheus import CONTENT_TYPE, OPENMETRICS_TYPE, Page, wants_openmetrics

OPEN_TO_ALL: Final = ("/livez", "/readyz", "/")
PIECE: Final = 2000
"""Tokens of JSON written in one turn of the loop: about 1 ms."""
FORCE: Final = {"open": "open", "close": "closed", "auto": "auto"}
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Admin:
    """The handlers.  `application()` is what to serve."""

    def __init__(self, view: AdminView) -> None:
        self._view = view
        self._metrics_page = Page(view.registry, view.env.now, view.env.sleep)
        self._files = page.load()
        self._caches = Caches(view)
        self.feed = Feed(view)

    def application(self) -> web.Application:
        """The aiohttp application; serve it with `AppRunner(…, access_log=None)`."""
        application = web.Application(middlewares=[self._answer, self._admit], client_max_size=1024)
        application.on_startup.append(self.feed.start)
        application.on_shutdown.append(self.feed.stop)
        application.router.add_get("/", self._file)
        application.router.add_get("/page/{name}", self._file)
        application.router.add_get("/live", self.feed.stream, allow_head=False)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/state", self._state)
        application.router.add_get("/cache", self._cache)
        application.router.add_post("/cache/purge", self._purge)
        application.router.add_post("/reload", self._reload)
        application.router.add_post("/breakers/{name:.+}/{action}", self._force)
        return application

    # ----- what every request goes through

    @web.middleware
    async def _answer(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        """Make errors problem documents, and bugs known."""
        try:
            response: web.StreamResponse = await handler(request)
        except web.HTTPException as error:
            response = problem(error.status, self._advice(request, error))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except Exception as error:
            self._view.env.meter.counter(BUGS, where="admin").value += 1
            self._view.env.emit(BUG, where=f"admin {request.method} {request.path}", error=error)
            response = problem(500, "the sidecar failed on this request; its log says how")
        response.headers.update(HEADERS)
        return response

    @web.middleware
    async def _admit(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        token = self._view.token
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
            if refusal := cross_site(request.host, origin, site, has_token=token is not None):
                return problem(403, refusal)
        result: web.StreamResponse = await handler(request)
        return result

    def _advice(self, request: web.Request, error: web.HTTPException) -> str:
        if isinstance(error, web.HTTPMethodNotAllowed):
            return f"{request.path} takes {' or '.join(sorted(error.allowed_methods))}, not {request.method}"
        if error.status == 404:
            return (
                f"nothing is at {request.path}; there are GET /, /live, /livez, /readyz, /metrics, /state, /cache "
                "and POST /reload, /cache/purge, /breakers/{name}/open, /breakers/{name}/close, /breakers/{name}/auto"
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

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if reason := self._view.ready():
            return problem(503, reason)
        return web.Response(text="ready\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        openmetrics = wants_openmetrics(request.headers.get("Accept", ""))
        kind = OPENMETRICS_TYPE if openmetrics else CONTENT_TYPE
        body = await self._metrics_page.text(openmetrics=openmetrics)
        return web.Response(body=body, headers={"Content-Type": kind, "Vary": "Accept"})

    async def _state(self, _: web.Request) -> web.Response:
        return await self._json(await document(self._view))

    async def _cache(self, _: web.Request) -> web.Response:
        return await self._json(self._caches.describe())

    async def _purge(self, request: web.Request) -> web.Response:
        try:
            purged = self._caches.purge(request.query)
        except LookupError as error:
            return problem(404, str(error.args[0]))
        except ValueError as error:
            return problem(400, str(error))
        return await self._json({"purged": purged})

    async def _reload(self, _: web.Request) -> web.Response:
        result = await self._view.reload()
        if result.problems:
            problems = [self._view.secrets.text(str(line)) for line in result.problems]
            detail = f"{len(problems)} problem(s) in the policy files; the running policies stay as they are"
            return problem(422, detail, problems=problems)
        return await self._json(self._view.secrets.plain(result.describe()))

    async def _force(self, request: web.Request) -> web.Response:
        name, action = request.match_info["name"], request.match_info["action"]
        if action not in FORCE:
            return problem(404, f"{action!r} cannot be done to a breaker; it is {', '.join(FORCE)}")
        breakers = {
            name_of(key): thing
            for key, thing in self._view.states().items()
            if key[0] == "breaker"
            and hasattr(thing, "force")  # those of an upstream's endpoints share one that has none
        }
        breaker = breakers.get(name)
        if breaker is None:
            near = difflib.get_close_matches(name, breakers, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return problem(404, f"there is no breaker {name!r}{hint}", breakers=sorted(breakers)[:100])
        breaker.force(FORCE[action])
        return await self._json({"name": name, **self._view.secrets.plain(breaker.describe())})

    async def _json(self, document: dict[str, Any]) -> web.Response:
        """Indented JSON, written in pieces: the indenting encoder takes some 20 ms for the state of 200 routes."""
        pieces: list[str] = []
        for token in json.JSONEncoder(indent=2, allow_nan=False).iterencode(document):
            pieces.append(token)
            if len(pieces) % PIECE == 0:
                await self._view.env.sleep(0)
        pieces.append("\n")
        return web.Response(text="".join(pieces), content_type="application/json")


def problem(status: int, detail: str, **members: Any) -> web.Response:
    """A problem document (RFC 9457)."""
    document = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    return web.Response(
        status=status, text=json.dumps(document, indent=2) + "\n", content_type="application/problem+json"
    )
