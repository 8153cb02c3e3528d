"""Identity of API keys, which are known by their digests only.

Rules:

1. A key has 256 random bits, so a plain SHA-256 of it is as safe as a slow hash, and cheap to compute for each request.
2. A key is looked up by its digest.  How long that takes tells nothing about other keys, because nobody can choose the
   digest of a guess.  The digest that is found is compared in constant time all the same.
3. The file is read again when it changes.  A broken file changes nothing, and is told once.
4. An owner may have any number of keys, so that a new one can be rolled out before the old one is taken away.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from hashlib import sha256
from math import isfinite
from typing import Any, Final, NamedTuple

from sidecar.core import events, metrics
from sidecar.core.env import Env, TaskHandle
from sidecar.core.exchange import Caller, Exchange
from sidecar.file_watch import FileWatch, look
from sidecar.identity.claims import CONTROLS, LONGEST_ID
from sidecar.identity.credentials import cookie_value, field_value, parameter_value
from sidecar.identity.key_source import POLL
from sidecar.identity.spec import ApiKeySpec
from sidecar.identity.verdict import Rejection, Verdict

DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
"""Matches a digest as the file has it."""
MOST_KEYS: Final = 10_000
"""Most keys of a file."""
LONGEST_KEY: Final = 1024
"""Longest key in a request, in bytes."""
DEFAULT_FIELD: Final = "x-api-key"
MEMBERS: Final = frozenset(("name", "owner", "digest", "expires", "claims"))
"""Members of a key in the file."""
UNKNOWN: Final = Rejection("the API key is unknown")

ReadYaml = Callable[[str], Any]
"""Function that returns the content of a YAML file.  Raises `OSError`, and `ValueError` with file and line."""


class ApiKey(NamedTuple):
    """API key of an owner."""

    name: str
    digest: str
    """SHA-256 of the key, in hex."""
    expires: float
    """Unix time from which the key is no longer valid; infinite without an end."""
    caller: Caller

    def describe(self) -> dict[str, Any]:
        """Return name, owner and end as JSON-ready values."""
        ends = {"expires": self.expires} if isfinite(self.expires) else {}
        return {"name": self.name, "owner": self.caller.id, **ends}


class ApiKeys:
    """Identity of the keys of one file.  Raises `ValueError` and `OSError` if it cannot be used at first."""

    scheme = b"ApiKey"

    def __init__(self, name: str, spec: ApiKeySpec, read: ReadYaml, env: Env) -> None:
        self.name = name
        self.problem = ""
        """Reason for which the newest content of the file is not in force; empty if it is."""
        is_elsewhere = spec.parameter is not None or spec.cookie is not None
        self.field = b"" if is_elsewhere else (spec.header or DEFAULT_FIELD).encode()
        self._parameter = (spec.parameter or "").encode()
        self._cookie = (spec.cookie or "").encode()
        self._path = spec.file
        self._read = read
        self._env = env
        self._wall: Callable[[], float] = env.wall
        self._task: TaskHandle | None = None
        self._watched = FileWatch(look(self._path))
        self._keys = self._load() if self._path else {}
        self._accepted = env.meter.counter(metrics.AUTHENTICATIONS, identity=name, result="accepted")
        self._rejected = env.meter.counter(metrics.AUTHENTICATIONS, identity=name, result="rejected")
        env.meter.gauge(metrics.IDENTITY_KEYS, lambda: len(self._keys), identity=name)

    def start(self) -> None:
        if self._task is None and self._path:
            self._task = self._env.spawn(self._watch())

    def retire(self) -> None:
        """Stop watching the file."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _watch(self) -> None:
        while True:
            await self._env.sleep(POLL)
            await self.poll()

    async def poll(self) -> None:
        """Check the file, and read it in a worker thread if it has changed."""
        if not self._watched.is_due(look(self._path)):
            return
        try:
            self._keys = await asyncio.to_thread(self._load)
        except (OSError, ValueError) as error:
            self.problem = str(error)
            self._env.emit(events.KEYS_FAILED, identity=self.name, reason=self.problem, keys=len(self._keys))
        else:
            self.problem = ""
            self._env.emit(events.KEYS_CHANGED, identity=self.name, keys=len(self._keys))

    def _load(self) -> dict[str, ApiKey]:
        return read_api_keys(self._read(self._path), self.name, self.field)

    def authenticate(self, x: Exchange, lines: bytes, lower: bytes, now: float) -> Verdict | None:
        key: bytes | Rejection | None
        if self.field:
            key = field_value(self.field, lines, lower)
        elif self._parameter:
            key = parameter_value(x, self._parameter)
        else:
            key = cookie_value(self._cookie, lines, lower)
        if key is None or isinstance(key, Rejection):
            return key
        found = self.find(key)
        if isinstance(found, Caller):
            self._accepted.value += 1
        else:
            self._rejected.value += 1
        return found

    def find(self, key: bytes) -> Caller | Rejection:
        """Return the owner of a key."""
        if len(key) > LONGEST_KEY:
            return UNKNOWN
        known = find_key(self._keys, key)
        if known is None:
            return UNKNOWN
        if self._wall() >= known.expires:
            return Rejection(f"the API key {known.name} has expired")
        return known.caller

    def learn(self, key: bytes, owner: str, claims: dict[str, Any]) -> None:
        """Take another key; for tests of policies."""
        digest = sha256(key).hexdigest()
        self._keys[digest] = ApiKey("test", digest, float("inf"), Caller(owner, self.name, claims, self.field))

    def describe(self) -> dict[str, Any]:
        """Return names, owners and ends (in Unix time) of the keys as JSON-ready values, those that end first."""
        keys = sorted(self._keys.values(), key=lambda key: key.expires)[:100]
        return {
            "kind": "api_key",
            "keys": [key.describe() for key in keys],
            "problem": self.problem,
        }


def find_key(keys: dict[str, ApiKey], key: bytes) -> ApiKey | None:
    """Return what is known of a key; None if it is unknown."""
    digest = sha256(key).hexdigest()
    known = keys.get(digest)
    return known if known is not None and hmac.compare_digest(known.digest, digest) else None


def new_key(name: str, owner: str) -> tuple[str, str]:
    """Return a new key, and its entry for the file of keys as YAML."""
    key = f"sidecar_{secrets.token_urlsafe(32)}"
    entry = {"name": name, "owner": owner, "digest": f"sha256:{sha256(key.encode()).hexdigest()}"}
    lines = [f"{member}: {json.dumps(value)}" for member, value in entry.items()]
    return key, f"  - {{{', '.join(lines)}}}\n"


def add_entry(path: str, entry: str) -> None:
    """Append an entry to a file of keys, which is made if it does not exist.  Raises `OSError`, and `ValueError`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        text = file.read()
        if text.strip() and not text.lstrip().startswith("keys:\n"):
            raise ValueError("does not begin with `keys:` and a list; add the entry by hand")
        file.write(
            f"{'' if text.endswith(chr(10)) or not text else chr(10)}{'' if text.strip() else f'keys:{chr(10)}'}{entry}"
        )


def read_api_keys(document: Any, identity: str, field: bytes) -> dict[str, ApiKey]:
    """Return the keys of a document by their digests.  Raises `ValueError` with the reason."""
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(document) > 1:
        raise ValueError("the file of API keys must be a mapping with the list `keys`, as `sidecar key new` writes it")
    if len(listed) > MOST_KEYS:
        raise ValueError(f"the file of API keys has {len(listed)} keys; at most {MOST_KEYS} are read")
    keys: dict[str, ApiKey] = {}
    for number, each in enumerate(listed, 1):
        key = _read_key(each, f"keys[{number - 1}]", identity, field)
        if key.digest in keys:
            raise ValueError(f"keys[{number - 1}] has the digest of the key {keys[key.digest].name}; take one out")
        keys[key.digest] = key
    return keys


def _read_key(each: Any, where: str, identity: str, field: bytes) -> ApiKey:
    if not isinstance(each, dict) or not each.keys() <= MEMBERS:
        raise ValueError(f"{where} must be a mapping with {', '.join(sorted(MEMBERS))}")
    name, digest, claims = each.get("name"), each.get("digest"), each.get("claims", {})
    owner = each.get("owner", name)
    for key, value in (("name", name), ("owner", owner)):
        if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID or CONTROLS.search(value):
            raise ValueError(f"{where}.{key} must be a short text")
    match = DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise ValueError(f"{where}.digest must be `sha256:` and 64 hex digits; make a key with `sidecar key new`")
    if not isinstance(claims, dict) or not all(isinstance(claim, str) for claim in claims):
        raise ValueError(f"{where}.claims must be a mapping of names to values")
    expires = _expires(each.get("expires"), where)
    return ApiKey(str(name), match[1], expires, Caller(str(owner), identity, dict(claims), field))


def _expires(value: Any, where: str) -> float:
    """Return the Unix time at which a key ends; a date alone ends with the day before it, in UTC."""
    if value is None:
        return float("inf")
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if isinstance(found, datetime):
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    if isinstance(found, date):
        return datetime.combine(found, time(), UTC).timestamp()
    raise ValueError(f"{where}.expires must be a date, such as 2027-01-31 or 2027-01-31T12:00:00Z")
