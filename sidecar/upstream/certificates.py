"""Certificate rotation: watches the files of a TLS block and reloads them when they change.

Rules (`docs/design/trust.md` has the reasons):

1. Changed files are loaded into a new context, which replaces the old one only if it is complete.  Invalid files change
   nothing; they are reported once, and tried again when they change again.  Open connections keep their context.
2. A connection to an upstream uses the current `context` when it is made.  A listener always has the same context,
   `front`, which passes each handshake to the current one (in OpenSSL's server name callback, which is also called
   without a name).
3. Files are polled (`file_watch`), so that a pair is not read while it is being written.
4. What a file says about its own end is watched too: it is logged when the end is near, and when it has come.
5. A changed TLS block gets a new watch: a context cannot change whether clients must present a certificate.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

from sidecar.certificate_dates import MOST_LEFT, Period, read_period
from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.file_watch import FileFacts, FileWatch, look
from sidecar.upstream.tls import CertificateError, ClientTlsSpec, ServerTlsSpec, build_context, files_of

EVENTS: Final = {
    "early": events.CERTIFICATE_INVALID, "ending": events.CERTIFICATE_EXPIRING, "ended": events.CERTIFICATE_INVALID,
}  # fmt: skip
"""Event for each state of a file but `valid`."""


class CertificateWatch:
    """Current TLS context of one TLS block.  Raises `CertificateError` if the files cannot be used at first."""

    def __init__(
        self, spec: ClientTlsSpec | ServerTlsSpec, owner: str, env: Env, protocols: list[str] | None = None
    ) -> None:
        """`protocols` are offered by ALPN (RFC 7301); HTTP/1.1 alone without them."""
        self.owner = owner
        """Name of the owner in events, such as `upstream payments` or `listener inbound`."""
        self.problem = ""
        """Reason for which the newest files are not in use; empty if they are."""
        self._spec = spec
        self._env = env
        self._protocols = protocols
        self._watch = FileWatch(self._look())
        self.context = self._build()
        """Current context."""
        self.front = self.context
        """Context for a listener, which passes each handshake to the current one."""
        self._loaded_at = env.wall()
        self._authorities_changed_at = 0.0
        self._periods = self._read_periods()
        self._states: dict[str, str] = {}
        """State of each setting's file as it was logged last."""
        self._note_ends()
        if isinstance(spec, ServerTlsSpec):
            self.front.sni_callback = self._select_context

    def _build(self) -> ssl.SSLContext:
        context = build_context(self._spec)
        if self._protocols is not None:
            context.set_alpn_protocols(self._protocols)
        return context

    def _select_context(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        """Pass a handshake to the current context; return an alert if its session may not be resumed, else None."""
        connection.context = self.context
        session = connection.session if connection.session_reused else None
        if session is not None and session.time <= self._authorities_changed_at:
            return ssl.ALERT_DESCRIPTION_BAD_CERTIFICATE  # the client then forgets the session (RFC 5246 7.2.2)
        return None

    def _look(self) -> FileFacts:
        return look(*(path for _, path in files_of(self._spec)))

    def _read_periods(self) -> dict[str, tuple[str, Period]]:
        """Return the file of each setting that has an end, and the time for which it is valid."""
        found = {setting: (path, read_period(setting, path)) for setting, path in files_of(self._spec)}
        return {setting: (path, period) for setting, (path, period) in found.items() if period is not None}

    def _note_ends(self) -> None:
        """Log the files that are near their end, or beyond it, each time that this changes."""
        now = self._env.wall()
        for setting, (path, period) in self._periods.items():
            state = period.state(now)
            if state == self._states.get(setting, "valid"):
                continue
            self._states[setting] = state
            if (event := EVENTS.get(state)) is not None:
                self._env.emit(event, owner=self.owner, file=path, reason=period.describe(path, setting, now))

    def observed(self) -> CertificateWatch:
        """Register the gauge of the watch, and return the watch."""
        self._env.meter.gauge(metrics.CERTIFICATE_LEFT, self.seconds_left, owner=self.owner)
        return self

    def seconds_left(self) -> float:
        """Return the seconds until the first of the files has expired, negative after that."""
        ends = [period.until for _, period in self._periods.values()]
        return min(MOST_LEFT, min(ends, default=MOST_LEFT) - self._env.wall())

    def poll(self) -> None:
        """Check the files and load changed ones; called once a second."""
        if self._watch.is_due(self._look()):
            self._load()
        self._note_ends()

    def _load(self) -> None:
        try:
            context = self._build()
        except CertificateError as error:
            self.problem = str(error)
            self._env.emit(events.CERTIFICATE_FAILED, owner=self.owner, reason=self.problem)
        else:
            self.problem = ""
            self._loaded_at = self._env.wall()
            self._periods, self._states = self._read_periods(), {}
            if set(context.get_ca_certs(binary_form=True)) != set(self.context.get_ca_certs(binary_form=True)):
                self._authorities_changed_at = self._loaded_at
            self.context = context
            self._env.emit(events.CERTIFICATE_RELOADED, owner=self.owner)

    def describe(self) -> dict[str, Any]:
        """Return files, their ends in Unix time, and problems as JSON-ready values."""
        now = self._env.wall()
        ends = [period.describe(path, setting, now) for setting, (path, period) in self._periods.items()]
        return {
            "owner": self.owner,
            "files": dict(files_of(self._spec)),
            "loaded_at": self._loaded_at,
            "valid_until": {setting: period.until for setting, (_, period) in self._periods.items() if period.has_end},
            "problem": self.problem or "; ".join(filter(None, ends)),
        }

    def __repr__(self) -> str:
        return f"<CertificateWatch {self.owner} {self.problem or 'ok'}>"
