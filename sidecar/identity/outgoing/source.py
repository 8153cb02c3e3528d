"""Credentials of the sidecar at an upstream: their interface, and those of a header field with a fixed secret.

The state store has a source under its upstream and settings, so that a token survives reloads.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.core import events
from sidecar.core.env import Env, TimerHandle
from sidecar.core.message import Headers
from sidecar.core.spec import Secret, SecretFile, reveal
from sidecar.file_watch import FileFacts, FileWatch, look
from sidecar.identity.outgoing.spec import HeaderSpec

POLL: Final = 1.0
"""Seconds between two looks at a file."""
LONGEST: Final = 16 * 1024
"""Longest secret in bytes."""
VALUE: Final = re.compile(r"[!-~]([ -~]*[!-~])?")
"""Matches a secret that can be the value of a header field."""


class Credentials:
    """Source of the credential for one upstream."""

    field = b"authorization"
    """Name of the header field in lower case."""
    problem = ""
    """Reason for which no newer credential is there; empty without one.  For people, without secrets."""

    def start(self) -> None:
        """Start the background work; without effect if it runs."""

    def retire(self) -> None:
        """Stop the background work."""

    def value(self, now: float) -> bytes:
        """Return the value of the field that holds at the instant `now`; empty without one."""
        raise NotImplementedError

    async def obtain(self, deadline: float) -> bytes:
        """Return a value, for which the caller may have to wait until `deadline`; empty if there is none."""
        raise NotImplementedError

    def reject(self, value: bytes) -> bool:
        """Take note that the upstream has rejected a value.  True if `obtain` may return another one."""
        raise NotImplementedError

    def retry_after(self, now: float) -> float | None:
        """Return the seconds until another request may find a value; None if that is unknown."""
        return None

    def fields(self, now: float) -> Headers | None:
        """Return the fields for a health check; None if there is no value at present."""
        value = self.value(now)
        return [(self.field, value)] if value else None

    def describe(self) -> dict[str, Any]:
        """Return the state as JSON-ready values, without secrets."""
        raise NotImplementedError


class HeaderCredentials(Credentials):
    """Header field whose secret is in the policy, or in a file that is read again when it changes.

    While the file cannot be used, the last secret is sent.
    """

    def __init__(self, upstream: str, spec: HeaderSpec, env: Env) -> None:
        """Raises `OSError` and `ValueError` if there is no secret at first."""
        self.field = spec.name.encode()
        self._upstream = upstream
        self._prefix = f"{spec.prefix} " if spec.prefix else ""
        self._secret: Secret = spec.value
        self._env = env
        self._timer: TimerHandle | None = None
        self._watch = FileWatch(self._facts())
        self._value = self._read()
        self._changed_at = env.now()

    def start(self) -> None:
        if self._timer is None and isinstance(self._secret, SecretFile):
            self._timer = self._env.call_later(POLL, self._poll)

    def retire(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def value(self, now: float) -> bytes:
        return self._value

    async def obtain(self, deadline: float) -> bytes:
        return self._value

    def reject(self, value: bytes) -> bool:
        if value == self._value:  # what is in the file is no worse, even if it is still being written
            self._watch = FileWatch(self._facts())
            self._update()
        return value != self._value

    def _poll(self) -> None:
        self._timer = self._env.call_later(POLL, self._poll)
        if self._watch.is_due(self._facts()):
            self._update()

    def _facts(self) -> FileFacts:
        return look(self._secret.file) if isinstance(self._secret, SecretFile) else ()

    def _update(self) -> None:
        """Read the secret again, and keep the last one if that fails."""
        try:
            value = self._read()
        except (OSError, ValueError) as error:
            reason = describe_file_error(error)
            if reason != self.problem:
                self.problem = reason
                self._env.emit(events.CREDENTIALS_FAILED, upstream=self._upstream, reason=reason)
            return
        self.problem = ""
        if value != self._value:
            self._value = value
            self._changed_at = self._env.now()
            self._env.emit(events.CREDENTIALS_CHANGED, upstream=self._upstream)

    def _read(self) -> bytes:
        return (self._prefix + read_secret(self._secret)).encode()

    def describe(self) -> dict[str, Any]:
        file = {"file": self._secret.file} if isinstance(self._secret, SecretFile) else {}
        return {
            "upstream": self._upstream,
            "kind": "header",
            "field": self.field.decode(),
            **file,
            "age": round(self._env.now() - self._changed_at, 3),
            "problem": self.problem,
        }


def read_secret(secret: Secret) -> str:
    """Return a secret that can be the value of a header field.  Raises `OSError` and `ValueError`."""
    text = reveal(secret).strip(" \t\r\n")
    if len(text) > LONGEST or not VALUE.fullmatch(text):
        where = f"{secret.file} " if isinstance(secret, SecretFile) else ""
        raise ValueError(f"{where}has no secret of 1 to {LONGEST} visible characters on one line")
    return text


def describe_file_error(error: OSError | ValueError) -> str:
    """Return the reason for which a file with a secret cannot be used."""
    if isinstance(error, UnicodeDecodeError):  # its text has the content of the file
        return "the file with the secret is not UTF-8 text"
    if isinstance(error, OSError):
        return f"{error.filename} cannot be read: {error.strerror}"
    return str(error)
