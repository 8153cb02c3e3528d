"""Certificate rotation: watches the files of a TLS block and reloads them when they change.

Rules (`docs/design/trust.md` has the reasons):

1. Changed files are loaded into a new context, which replaces the old one only if it is complete.  Invalid files change
   nothing; they are reported once, and tried again when they change again.  Open connections keep their context.
2. A connection to an upstream uses the current `context` when it is made.  A listener always has the same context,
   `front`, which passes each handshake to the current one (in OpenSSL's server name callback, which is also called
   without a name).
3. Files are polled (`file_watch`), so that a pair is not read while it is being written.
4. A changed TLS block gets a new watch: a context cannot change whether clients must present a certificate.
"""

from __future__ import annotations

import ssl
from typing import Any

from sidecar.core import events
from sidecar.core.env import Env
from sidecar.file_watch import FileFacts, FileWatch, look
from sidecar.upstream.tls import CertificateError, ClientTlsSpec, ServerTlsSpec, build_context, files_of


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

    def poll(self) -> None:
        """Check the files and load changed ones; called once a second."""
        if self._watch.is_due(self._look()):
            self._load()

    def _load(self) -> None:
        try:
            context = self._build()
        except CertificateError as error:
            self.problem = str(error)
            self._env.emit(events.CERTIFICATE_FAILED, owner=self.owner, reason=self.problem)
        else:
            self.problem = ""
            self._loaded_at = self._env.wall()
            if set(context.get_ca_certs(binary_form=True)) != set(self.context.get_ca_certs(binary_form=True)):
                self._authorities_changed_at = self._loaded_at
            self.context = context
            self._env.emit(events.CERTIFICATE_RELOADED, owner=self.owner)

    def describe(self) -> dict[str, Any]:
        return {
            "owner": self.owner,
            "files": dict(files_of(self._spec)),
            "loaded_at": self._loaded_at,
            "problem": self.problem,
        }

    def __repr__(self) -> str:
        return f"<CertificateWatch {self.owner} {self.problem or 'ok'}>"
