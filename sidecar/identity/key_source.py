"""Key sets of issuers: from a URL, a file or the policy, kept fresh in the background.

Rules for keys from a URL:

1. A background task fetches the set every `refresh`, with jitter.  After a failure it tries again sooner, at growing
   intervals.  Requests that need the set before it is there share one fetch.
2. While the URL fails, the keys last fetched are used for up to `stale_for`; then the set is empty.
3. A token with an unknown key ID starts a fetch, at most one in `UNKNOWN_EVERY`, because anyone can send such tokens.
4. A set without a usable key changes nothing: it is a failure like a missing answer.
5. A key that stays in the set stays the same object, so verdicts that rest on it remain valid.
6. With `keep`, each fetched set is written to a file, and read at the start of the process.

The state store has a source under its identity and place, so it survives reloads.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.core import events, metrics
from sidecar.core.env import Env, TaskHandle
from sidecar.file_watch import FileWatch, look
from sidecar.identity.claims import MOST_SECONDS
from sidecar.identity.http_source import FetchError, HttpSource
from sidecar.identity.jws import parse_json
from sidecar.identity.keys import Key, read_keys
from sidecar.identity.spec import KeysSpec
from sidecar.telemetry.files import write_file

UNKNOWN_EVERY: Final = 10.0
"""Least seconds between two fetches because of unknown key IDs."""
FIRST_RETRY: Final = 1.0
"""Seconds from the first failed fetch to the next; each further failure doubles them, up to `refresh`."""
JITTER: Final = 0.1
"""Share of an interval by which it is shortened or lengthened at random."""
POLL: Final = 1.0
"""Seconds between two looks at a file."""
MOST_BYTES: Final = 512 * 1024
"""Largest file in bytes."""
JSON: Final = [(b"accept", b"application/json, application/jwk-set+json")]
HTTP_OK: Final = 200


class KeySet:
    """Keys in force, by algorithm and ID."""

    __slots__ = ("_known", "keys")

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)
        """All keys."""
        self._known: dict[tuple[str, str | None], list[Key]] = {}
        for key in self.keys:
            for algorithm in key.algorithms:
                for kid in {key.id, None}:
                    self._known.setdefault((algorithm, kid), []).append(key)

    def find(self, algorithm: str, kid: str | None) -> list[Key]:
        """Return the keys that may have made a signature.  Without an ID, those are all keys for the algorithm."""
        return self._known.get((algorithm, kid), [])

    def replaced_by(self, keys: Iterable[Key]) -> KeySet:
        """Return the set of other keys; a key that is in both stays the same object, and the rest leave."""
        known = {key.digest: key for key in self.keys}
        new = {key.digest: known.get(key.digest, key) for key in keys}
        for digest, key in known.items():
            key.is_current = digest in new
        return KeySet(new.values())


class KeySource:
    """Source of the keys of one identity."""

    name: str
    """Name of the identity."""
    keys: KeySet
    """Keys in force."""
    problem: str
    """Reason for which the newest keys are not in force; empty if they are."""

    def start(self) -> None:
        """Start the background work; without effect if it runs."""

    def retire(self) -> None:
        """Stop the background work."""

    def is_usable(self, now: float) -> bool:
        """True if the keys may be used at the instant `now`."""
        return True

    def fetched(self, kid: str | None, now: float) -> asyncio.Future[None] | None:
        """Return a future for the end of a fetch that may bring a missing key; None if none is due."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return keys and problem as JSON-ready values."""
        return {
            "identity": self.name,
            "keys": [{"id": key.id, "kind": key.kind, "algorithms": key.algorithms} for key in self.keys.keys],
            "problem": self.problem,
        }


class InlineKeys(KeySource):
    """Keys of the policy itself.  Raises `ValueError` if one of them cannot be used."""

    def __init__(self, name: str, jwks: Iterable[dict[str, Any]]) -> None:
        self.name = name
        keys, problems = _read("keys.inline", list(jwks), has_secrets=True)
        if problems:
            raise ValueError(f"keys.inline: {'; '.join(problems)}")
        self.keys = KeySet(keys)
        self.problem = ""


class FileKeys(KeySource):
    """Keys of a file, which is read again when it changes.  Raises `ValueError` if it cannot be used at first."""

    def __init__(self, name: str, path: str, env: Env) -> None:
        self.name = name
        self.problem = ""
        self._path = path
        self._env = env
        self._task: TaskHandle | None = None
        self._file = FileWatch(look(path))
        self.keys = KeySet(self._read())
        _observe(self, env)

    def start(self) -> None:
        if self._task is None:
            self._task = self._env.spawn(self._watch())

    def retire(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _watch(self) -> None:
        while True:
            await self._env.sleep(POLL)
            self.poll()

    def poll(self) -> None:
        """Check the file, and read it if it has changed."""
        if not self._file.is_due(look(self._path)):
            return
        try:
            keys = self._read()
        except ValueError as error:
            self.problem = str(error)
            self._env.emit(events.KEYS_FAILED, identity=self.name, reason=self.problem)
            return
        self.problem = ""
        self.keys = _exchange(self, keys, self._env)

    def _read(self) -> list[Key]:
        keys, problems = _read(self._path, read_json_file(self._path), has_secrets=True)
        if problems or not keys:
            raise ValueError(f"{self._path}: {'; '.join(problems) or 'has no keys'}")
        return keys


class RemoteKeys(KeySource):
    """Keys from a URL."""

    def __init__(self, name: str, spec: KeysSpec, issuer: str, source: HttpSource, env: Env) -> None:
        """`source` is the client for the URL of the key set, or with discovery for that of the metadata."""
        self.name = name
        self.keys = KeySet()
        self.problem = "was not fetched yet"
        self.fetched_at = 0.0
        """Instant of the last good fetch; 0 before the first."""
        self._spec = spec
        self._issuer = issuer
        self._source = source
        self._env = env
        self._task: TaskHandle | None = None
        self._document: Any = None
        """Key set as it was fetched last; None before the first fetch."""
        self._waiting: list[asyncio.Future[None]] = []
        self._is_fetching = False
        self._next_unknown = 0.0
        self._failures = 0
        self._results = {
            result: env.meter.counter(metrics.IDENTITY_FETCHES, identity=name, result=result)
            for result in ("ok", "failed")
        }
        env.meter.gauge(metrics.IDENTITY_KEYS_AGE, self._age, identity=name)
        _observe(self, env)
        self._restore()

    def retune(self, spec: KeysSpec) -> None:
        """Take new settings for refreshing and keeping."""
        self._spec = spec

    def start(self) -> None:
        if self._task is None:
            self._task = self._env.spawn(self._run())

    def retire(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._wake()

    def is_usable(self, now: float) -> bool:
        keys = self.keys.keys
        if keys and now > self.fetched_at + self._spec.refresh + self._spec.stale_for:
            self.problem = f"{self.problem or 'is not refreshed'}; its keys are older than stale_for allows"
            self._env.emit(events.KEYS_FAILED, identity=self.name, reason=self.problem)
            self.keys = self.keys.replaced_by(())
            return False
        return bool(keys)

    def fetched(self, kid: str | None, now: float) -> asyncio.Future[None] | None:
        if not self._is_fetching:
            if now < self._next_unknown:
                return None
            self._next_unknown = now + UNKNOWN_EVERY
            self._is_fetching = True
            self._env.spawn(self._fetch())
        future: asyncio.Future[None] = self._env.future()
        self._waiting.append(future)
        return future

    @property
    def is_failing(self) -> bool:
        """True if the last fetch failed, or there was none."""
        return bool(self.problem)

    async def _run(self) -> None:
        """Fetch the keys periodically."""
        env = self._env
        due = self._pause() - (env.now() - self.fetched_at) if self.keys.keys else 0.0
        while True:
            if due > 0:
                await env.sleep(due)
            if not self._is_fetching:
                self._is_fetching = True
                await self._fetch()
            due = self._pause()

    def _pause(self) -> float:
        """Return the seconds until the next fetch."""
        refresh = self._spec.refresh
        if self._failures:
            refresh = min(refresh, FIRST_RETRY * 2 ** min(self._failures - 1, 20))
        return refresh * (1 - JITTER + 2 * JITTER * self._env.rng.random())

    async def _fetch(self) -> None:
        """Fetch the keys once, and release the requests that wait for them."""
        try:
            keys, problems = await self._download()
        except (FetchError, ValueError) as error:
            self._fail(str(error))
        except Exception as error:  # a bug must not end the background task
            self._env.emit(events.BUG, where=f"keys of the identity {self.name}", error=error)
            self._fail(repr(error))
        else:
            self._accept(keys, problems)
        finally:
            self._is_fetching = False
            self._wake()
        if not self.problem:
            await self._keep_file()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _fail(self, reason: str) -> None:
        self._failures += 1
        self._results["failed"].value += 1
        if self._failures == 1 or reason != self.problem:
            self._env.emit(events.KEYS_FAILED, identity=self.name, reason=reason, keys=len(self.keys.keys))
        self.problem = reason

    def _accept(self, document: list[Key], problems: list[str]) -> None:
        self._results["ok"].value += 1
        was_failing, self._failures = self._failures, 0
        self.fetched_at = self._env.now()
        self.problem = ""
        self.keys = _exchange(self, document, self._env, ignored=problems)
        if was_failing:
            self._env.emit(events.KEYS_RESTORED, identity=self.name, failures=was_failing, keys=len(document))

    async def _download(self) -> tuple[list[Key], list[str]]:
        """Return the keys of the URL, and the reasons for unusable ones.  Raises `FetchError` and `ValueError`."""
        path = query = None
        url = self._source.url
        if self._spec.url is None:
            url, path, query = await self._discover()
        document = await self._json(url, path, query)
        keys, problems = _read(url, document, has_secrets=False)
        if not keys:
            raise ValueError(f"{url}: has no usable key; {'; '.join(problems) or 'the list is empty'}")
        return keys, problems

    async def _discover(self) -> tuple[str, bytes, bytes | None]:
        """Return the URL of the key set that the issuer's metadata name (OpenID Connect Discovery 4)."""
        where = self._source.url
        found = await self._json(where, None, None)
        if not isinstance(found, dict) or found.get("issuer") != self._issuer:
            raise ValueError(f"{where}: is not the metadata of the issuer {self._issuer}")
        url = found.get("jwks_uri")
        ours, theirs = urlsplit(where), urlsplit(url if isinstance(url, str) else "")
        if not isinstance(url, str) or (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc):
            raise ValueError(f"{where}: names the keys at {url!r}, on another host; write keys: {{url: ...}}")
        return url, (theirs.path or "/").encode(), theirs.query.encode() if theirs.query else None

    async def _json(self, url: str, path: bytes | None, query: bytes | None) -> Any:
        reply = await self._source.ask(self._spec.timeout, JSON, path=path, query=query)
        if reply.status != HTTP_OK:
            raise FetchError(f"{url}: answered with the status {reply.status}")
        try:
            found = parse_json(reply.body)
        except ValueError as error:
            raise ValueError(f"{url}: is not JSON: {error}") from None
        if path is not None or self._spec.url is not None:
            self._document = found
        return found

    # ----- the file

    async def _keep_file(self) -> None:
        """Write the fetched keys to the file of `keep`; a failure is logged and changes nothing."""
        if (path := self._spec.keep) is None:
            return
        document = {"source": self._source.url, "fetched": self._env.wall(), "keys": _listed(self._document)}
        try:
            await asyncio.to_thread(write_file, path, json.dumps(document).encode())
        except OSError as error:
            reason = f"{path} cannot be written: {error.strerror}"
            self._env.emit(events.KEYS_FAILED, identity=self.name, reason=reason, keys=len(self.keys.keys))

    def _restore(self) -> None:
        """Take the keys from the file of `keep`, if there is one and its keys are young enough."""
        path, spec = self._spec.keep, self._spec
        if path is None or not os.path.exists(path):
            return
        try:
            if is_writable_by_others(path):
                raise ValueError(f"{path} can be written by others; take that right away")
            document = read_json_file(path)
            if not isinstance(document, dict) or document.get("source") != self._source.url:
                raise ValueError(f"{path} holds the keys of another URL")
            fetched = document.get("fetched")
            if not isinstance(fetched, int | float) or not 0 <= fetched < MOST_SECONDS:
                raise ValueError(f"{path} does not say when its keys were fetched")
            age = self._env.wall() - fetched
            if not 0 <= age <= spec.refresh + spec.stale_for:
                raise ValueError(f"{path} is too old, or from the future")
            keys, _ = _read(path, document, has_secrets=False)
        except ValueError as error:
            self._env.emit(events.KEYS_FAILED, identity=self.name, reason=str(error), keys=0)
            return
        self.fetched_at = self._env.now() - age
        self.keys = KeySet(keys)
        self.problem = "was not fetched since the start of the process"

    def _age(self) -> float:
        return self._env.now() - self.fetched_at if self.keys.keys else 0.0

    def describe(self) -> dict[str, Any]:
        age = {"age": round(self._age(), 3)} if self.keys.keys else {}
        return {**super().describe(), "url": self._source.url, **age, "failures": self._failures}


def _observe(source: KeySource, env: Env) -> None:
    """Register the gauge of a source's keys."""
    env.meter.gauge(metrics.IDENTITY_KEYS, lambda: len(source.keys.keys), identity=source.name)


def _exchange(source: KeySource, keys: list[Key], env: Env, ignored: Iterable[str] = ()) -> KeySet:
    """Return the key set that replaces that of a source, and log the change."""
    old, new = source.keys, source.keys.replaced_by(keys)
    added = [str(key.id) for key in new.keys if key not in old.keys]
    removed = [str(key.id) for key in old.keys if not key.is_current]
    if added or removed:
        env.emit(events.KEYS_CHANGED, identity=source.name, added=added, removed=removed, ignored=list(ignored))
    return new


def _read(where: str, document: Any, *, has_secrets: bool) -> tuple[list[Key], list[str]]:
    """Return what `read_keys` returns; its errors begin with the place of the key set."""
    try:
        return read_keys(document, has_secrets=has_secrets)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _listed(document: Any) -> Any:
    return document.get("keys") if isinstance(document, dict) else document


def is_writable_by_others(path: str) -> bool:
    """True if others than this user and root own a file or may write to it."""
    found = os.stat(path)
    return found.st_uid not in (0, os.geteuid()) or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def read_json_file(path: str) -> Any:
    """Return the content of a JSON file.  Raises `ValueError`."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES} bytes")
    try:
        return parse_json(data)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
