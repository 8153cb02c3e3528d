"""Errors of sockets and TLS in words that say what is wrong, without the system's numbers and names."""

from __future__ import annotations

import os
import ssl


def words(error: Exception) -> str:
    """`connection refused`, `certificate verify failed: Hostname mismatch, ...`, `name or service not known`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.errno:
        return (os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)).lower()
    return str(error) or type(error).__name__
