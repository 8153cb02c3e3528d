"""The admin listener: is it alive and ready, what does it count, what does it know; reload, and breakers by hand.

    GET  /livez /readyz                      200, or 503 and why; without a token, since probes have none
    GET  /metrics                            Prometheus text (`telemetry.prometheus`)
    GET  /state                              JSON for people and scripts: everything that has state describes itself
    POST /reload                             200 and what changed, or 422 and every problem of the files
    POST /breakers/{name}/open|close|auto    by hand, until `auto`; names as `/state` has them: `upstream:payments`

Errors are problem documents (RFC 9457) that say what would be right.  Who may ask is for `admin_access` to say.  No
handler holds the loop for more than a few milliseconds: long documents are written in pieces with a turn of the loop
between them.  The listener knows the rest of the process only through the `AdminView` it is handed.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Protocol

from aiohttp import web

from sidecar.core.env import Env, StateKey
from sidecar.core.events import BUG, BUGS
from sidecar.edge.admin_access import cross_site, is_bearer
from sidecar.telemetry import process
from sidecar.telemetry.metrics import Registry
from sidecar.telemetry.plain import Secrets
from sidecar.telemetry.prometheus import CONTENT_TYPE, Page

OPEN_TO_ALL: Final = ("/livez", "/readyz")
PIECE: Final = 2000
"""Tokens of JSON written in one turn of the loop: about 1 ms."""
FORCE: Final = {"open": "open", "close": "closed", "auto": "auto"}
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Reloaded(Protocol):
    """How a reload went."""

    @property
    def problems(self) -> Sequence[object]:
        """What is wrong with the files, each as a line; empty where the reload was applied (or changed nothing)."""

    def describe(self) -> dict[str, Any]:
        """What changed."""


@dataclass(frozen=True, slots=True)
class AdminView:
    """All that the admin listener may see of the process."""

    env: Env
    registry: Registry
    version: str
    started: float
    """`env.now` at the start."""
    ready: Callable[[], str]
    """Why it is not ready; empty where it is."""
    reload: Callable[[], Awaitable[Reloaded]]
    states: Callable[[], Mapping[StateKey, Any]]
    """Every living state object by its identity (`StateStore.objects`): shown if it has `describe()`; those under
    `("breaker", …)` also have `force(mode)`, which takes `open`, `closed` and `auto`."""
    recent: Iterable[Mapping[str, Any]] = ()
    """The latest events (`Emitter.recent`)."""
    sections: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    """What else `/state` shows, by name: `policies`, `routes`, `reloads`, `connections`, `loop`, …"""
    secrets: Secrets = field(default_factory=Secrets)
    token: str | None = None


class Admin:
    """The handlers.  `application()` is what to serve."""

    def __init__(self, view: AdminView) -> None:
        self._view = view
        self._page = Page(view.registry, view.env.now, view.env.sleep)

    def application(self) -> web.Application:
        """The aiohttp application; serve it with `AppRunner(…, access_log=None)`."""
        application = web.Application(middlewares=[self._answer, self._admit], client_max_size=1024)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/state", self._state)
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
                f"nothing is at {request.path}; there are GET /livez, /readyz, /metrics, /state and POST /reload, "
                "/breakers/{name}/open, /breakers/{name}/close, /breakers/{name}/auto"
            )
        return error.reason

    # ----- handlers

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if reason := self._view.ready():
            return problem(503, reason)
        return web.Response(text="ready\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._page.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _state(self, _: web.Request) -> web.Response:
        view = self._view
        plain = view.secrets.plain
        document: dict[str, Any] = {
            "version": view.version,
            "uptime_seconds": round(view.env.now() - view.started, 3),
            "ready": not view.ready(),
            "not_ready_because": view.ready() or None,
            "process": plain({"rss_bytes": process.memory(), "cpu_seconds": process.cpu(), "files": process.files()}),
        }
        for name, section in view.sections.items():
            document[name] = plain(section())
            await view.env.sleep(0)
        state: dict[str, dict[str, Any]] = {}
        for number, (key, thing) in enumerate(list(view.states().items()), 1):
            if (describe := getattr(thing, "describe", None)) is not None:
                state.setdefault(key[0], {})[name_of(key)] = plain(describe())
            if number % 5 == 0:
                await view.env.sleep(0)
        document["state"] = state
        document["events"] = list(view.recent)
        return await self._json(document)

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


def name_of(key: StateKey) -> str:
    """The name of a state object among its kind: `upstream:payments`."""
    return ":".join(key[1:])


def problem(status: int, detail: str, **members: Any) -> web.Response:
    """A problem document (RFC 9457)."""
    document = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    return web.Response(
        status=status, text=json.dumps(document, indent=2) + "\n", content_type="application/problem+json"
    )
