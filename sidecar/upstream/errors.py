"""Descriptions of socket and TLS errors, without error numbers and class names."""

from __future__ import annotations

import os
import ssl


def describe_error(error: Exception) -> str:
    """Return the description of an error.

    Examples: `connection refused`, `certificate verify failed: Hostname mismatch, ...`, `TLS: wrong version number`.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.errno:
        return (os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)).lower()
    return str(error) or type(error).__name__
