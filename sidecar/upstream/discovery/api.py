"""Requests to the API server of Kubernetes, with the pod's service account.

Rules:

1. The token is read for each request, and the authorities for each session, because Kubernetes replaces both.
2. Answers have bounds: a list `MOST_BYTES`, a line of a watch `MOST_LINE_BYTES`.
3. A connection that is lost without a word is noticed by TCP keep-alive within half a minute, since a quiet watch may
   send nothing for longer.
4. Redirects are not followed: they would carry the token elsewhere.
5. Lines of a watch within `GATHER_SECONDS` are read together: a rollout changes many slices at once, and each reading
   and each application of changes has costs of its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncGenerator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.env import Env
from sidecar.upstream.balancing.health import aiohttp_resolver
from sidecar.upstream.discovery.slices import EXPIRED, ExpiredError, status_of
from sidecar.upstream.discovery.spec import ApiSpec
from sidecar.upstream.resolver import NameResolver

if TYPE_CHECKING:
    import aiohttp

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Directory of the pod's service account: `token`, `ca.crt` and `namespace`."""
CONNECT_SECONDS: Final = 5.0
"""Time-out of a connection with its TLS handshake."""
ANSWER_SECONDS: Final = 15.0
"""Time-out of an answer that is no watch, and of the head of a watch."""
MOST_BYTES: Final = 32 * 2**20
"""Most bytes of one page of a list."""
MOST_LINE_BYTES: Final = 4 * 2**20
"""Most bytes of one line of a watch."""
GATHER_SECONDS: Final = 0.2
"""Seconds for which lines of a watch are gathered."""
READING: Final = 0.1
"""Share of that time in which the connection is read."""
MOST_RETRY_AFTER: Final = 60.0
"""Longest pause in seconds that an answer can ask for."""
MOST_TOKEN_BYTES: Final = 64 * 2**10
"""Most bytes of a token."""
KEEP_ALIVE: Final = (
    ("TCP_KEEPIDLE", 10),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 25_000),
)
"""Options of a connection: seconds before and between probes, their number, and milliseconds without an answer."""


class ApiError(Exception):
    """Raised if a request has failed; the text is for the log."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the server wants to be left alone; 0 if it does not say."""


def account_file(name: str, given: str | None = None) -> Path:
    """Return a file of the service account; `given` is another path that the policy names."""
    return Path(given) if given else ACCOUNT / name


def own_namespace() -> str:
    """Return the namespace of the pod.  Raises `ApiError`."""
    path = account_file("namespace")
    try:
        return path.read_text().strip()
    except OSError:
        raise ApiError(f"{path} cannot be read; write the namespace into the policy") from None


def server_url(spec: ApiSpec) -> str:
    """Return the address of the API server.  Raises `ApiError`."""
    if spec.url:
        return spec.url
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ApiError("KUBERNETES_SERVICE_HOST is not set, so this is no pod; write api.url into the policy")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class Api:
    """Session with the API server; use it as an asynchronous context."""

    _session: aiohttp.ClientSession

    def __init__(self, spec: ApiSpec, names: NameResolver | None, env: Env) -> None:
        self._spec = spec
        self._names = names
        self._env = env
        self._url = ""

    async def __aenter__(self) -> Api:
        await asyncio.to_thread(import_module, "aiohttp")  # the import takes long and must not block the loop
        import aiohttp

        self._url = server_url(self._spec)
        connector = aiohttp.TCPConnector(
            ssl=self._make_context(),
            limit=4,
            use_dns_cache=False,
            resolver=aiohttp.ThreadedResolver() if self._names is None else aiohttp_resolver(self._names),
            socket_factory=_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            headers={"accept": "application/json", "user-agent": "resilience-sidecar"},
            auto_decompress=False,
            skip_auto_headers=("accept-encoding",),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def _make_context(self) -> ssl.SSLContext | bool:
        """Return the TLS context of a new session.  Raises `ApiError`."""
        if self._url.startswith("http://"):
            return True
        path = account_file("ca.crt", self._spec.ca)
        try:
            return ssl.create_default_context(cafile=str(path))
        except (OSError, ssl.SSLError) as error:
            raise ApiError(f"{path} cannot be used: {error}") from None

    def _credentials(self) -> dict[str, str]:
        """Return the header with the token.  Raises `ApiError`."""
        if self._url.startswith("http://") and not self._spec.token:
            return {}
        path = account_file("token", self._spec.token)
        try:
            with path.open("rb") as file:
                token = file.read(MOST_TOKEN_BYTES).strip().decode("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ApiError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if not token or not token.isprintable():
            raise ApiError(f"{path} has no token")
        return {"authorization": f"Bearer {token}"}

    async def get(self, path: str, **query: str) -> bytes:
        """Return the body of a response.  Raises `ApiError` and `ExpiredError`."""
        import aiohttp

        try:
            async with self._session.get(
                self._url + path,
                params=query,
                headers=self._credentials(),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS),
            ) as response:
                data = await _read(response)
                _check(response, data)
                return data
        except (aiohttp.ClientError, OSError) as error:  # a time-out is an `OSError` too
            raise ApiError(_describe(error)) from None

    async def watch(self, path: str, seconds: int, **query: str) -> AsyncGenerator[list[bytes], None]:
        """Yield no lines once the watch is open, then its lines, as many as have come together.

        It ends with the connection.  `seconds` is the length that the server is asked for.  Raises `ApiError` and
        `ExpiredError`.
        """
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=seconds + ANSWER_SECONDS)
        try:
            async with self._session.get(
                self._url + path,
                params={"watch": "1", "timeoutSeconds": str(seconds), **query},
                headers=self._credentials(),
                allow_redirects=False,
                timeout=timeout,
                read_bufsize=MOST_LINE_BYTES,
            ) as response:
                if response.status != 200:
                    _check(response, await _read(response))
                yield []
                rest = b""
                while chunk := await response.content.readany():
                    *lines, rest = (rest + chunk + await self._gather(response)).split(b"\n")
                    if found := [line for line in lines if line.strip()]:
                        yield found
                    if len(rest) > MOST_LINE_BYTES:
                        raise ApiError(f"the API server sends an event of more than {MOST_LINE_BYTES} bytes")
        except (aiohttp.ClientError, OSError) as error:
            raise ApiError(_describe(error)) from None

    async def _gather(self, response: aiohttp.ClientResponse) -> bytes:
        """Return what arrives within `GATHER_SECONDS`; most of that time it stays in the socket, unread."""
        import aiohttp

        connection = response.connection
        if connection is None or connection.protocol is None:  # the watch has ended
            return b""
        connection.protocol.pause_reading()
        await self._env.sleep(GATHER_SECONDS * (1 - READING))
        connection.protocol.resume_reading()
        await self._env.sleep(GATHER_SECONDS * READING)
        try:
            return response.content.read_nowait()
        except (aiohttp.ClientError, OSError):  # what has come before is used, and the next read fails again
            return b""


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of a response.  Raises `ApiError` if it is too long."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MOST_BYTES:
            raise ApiError(f"the API server's answer is longer than {MOST_BYTES} bytes")
    return bytes(data)


def _check(response: aiohttp.ClientResponse, data: bytes) -> None:
    """Raise `ExpiredError` or `ApiError` unless the status is 200."""
    status = response.status
    if status == 200:
        return
    if status == EXPIRED:
        raise ExpiredError
    remedy = {
        401: "; the token is not accepted",
        403: "; grant the service account list and watch of endpointslices",
        404: "; the server does not know discovery.k8s.io/v1",
    }.get(status, "")
    after = response.headers.get("retry-after", "")
    seconds = min(float(after), MOST_RETRY_AFTER) if after.isdecimal() and len(after) < 20 else 0.0
    raise ApiError(f"the API server answers {status}: {status_of(data) or response.reason}{remedy}", seconds)


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the API server does not answer in time"
    return f"the API server cannot be reached: {error or type(error).__name__}"


def _socket(info: Any) -> socket.socket:
    """Return a socket that notices a lost connection."""
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE:
        if (option := getattr(socket, name, None)) is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
