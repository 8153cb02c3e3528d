"""Certificates made while a test runs, as the files that policies name."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import trustme


class Authority:
    """Certificate authority, and the certificates that it has signed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.ca_file)

    def sign(self, *names: str, to: Path | None = None) -> dict[str, Any]:
        """Return the settings `cert` and `key` of a new certificate; `to` is the folder for their files."""
        folder = to or self.folder / names[0]
        folder.mkdir(exist_ok=True)
        leaf = self.ca.issue_cert(*names)
        leaf.private_key_pem.write_to_path(folder / "key")
        (folder / "cert").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        return {"cert": str(folder / "cert"), "key": str(folder / "key")}

    def client(self, identity: dict[str, Any] | None = None) -> ssl.SSLContext:
        """Return a client's context that trusts this authority and shows `identity` (settings of `sign`)."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if identity is not None:
            context.load_cert_chain(identity["cert"], identity["key"])
        return context

    def server(self, identity: dict[str, Any], *, asks: bool = False) -> ssl.SSLContext:
        """Return a server's context that shows `identity`; with `asks` clients need a certificate of this authority."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca_file)
        context.load_cert_chain(identity["cert"], identity["key"])
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
        return context
