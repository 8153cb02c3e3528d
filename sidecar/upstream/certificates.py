"""Certificates that change while we run: `CertificateWatch` follows the files of a TLS block.

Rules:

1. A changed set of files becomes a new context, built whole before anything is replaced; a broken set changes nothing,
   is told once, and is tried again when the files change again.  Connections that exist keep what they began with.
2. A connection to an upstream asks for `context` when it is made.  A listener has its context for life, so it gets
   `front`, which hands every handshake on to the present context (OpenSSL's server name callback, called with or
   without a name).  Loading the new pair into the old context would serve as well for a certificate, but an authority
   once in a context cannot be taken out of it: a withdrawn `client_ca` would stay trusted.  For the same reason a TLS
   session from before a change of authorities is not resumed: resumption does not look at the certificate again.
3. Files are looked at by `stat`, links followed, once a second: file watchers lose the second swap of a Kubernetes
   secret.  New ones are read when two looks have found them the same, so a pair is not read while it is being written.
   Reading takes 1 ms, and 20 ms where the system's authorities are read too.

A changed TLS block is another watch: whether a client must show a certificate cannot change within a context.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

from sidecar.core import events
from sidecar.core.env import Env
from sidecar.upstream.tls import CertificateError, ClientTlsSpec, ServerTlsSpec, build_context, files_of

Fingerprint = tuple[tuple[int, ...], ...]


class CertificateWatch:
    """The present context of one TLS block.  Raises `CertificateError` if there is none to begin with."""

    def __init__(self, spec: ClientTlsSpec | ServerTlsSpec, owner: str, env: Env) -> None:
        self.owner = owner
        """Whose it is, for events: `upstream payments` or `listener inbound`."""
        self.problem = ""
        """Why the newest files are not in use; empty where they are."""
        self._spec = spec
        self._env = env
        self._seen = self._tried = self._fingerprint()
        self.context = build_context(spec)
        self.front = self.context
        """For a listener: handshakes use what `context` is at their time."""
        self._loaded_at = env.wall()
        self._authorities_changed_at = 0.0
        if isinstance(spec, ServerTlsSpec):
            self.front.sni_callback = self._hand_on

    def _hand_on(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        connection.context = self.context
        session = connection.session if connection.session_reused else None
        if session is not None and session.time <= self._authorities_changed_at:
            return ssl.ALERT_DESCRIPTION_BAD_CERTIFICATE  # the client then forgets the session (RFC 5246 7.2.2)
        return None

    def _fingerprint(self) -> Fingerprint:
        found: list[tuple[int, ...]] = []
        for _, path in files_of(self._spec):
            try:
                stat = os.stat(path)
            except OSError as error:
                found.append((-(error.errno or 0),))
            else:
                found.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        return tuple(found)

    def poll(self) -> None:
        """Look at the files; to be called once a second."""
        found = self._fingerprint()
        if found != self._seen:
            self._seen = found
        elif found != self._tried:
            self._tried = found
            self._load()

    def _load(self) -> None:
        try:
            context = build_context(self._spec)
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
