"""Descriptions of errors for logs: those of sockets and TLS, without numbers and class names, and late bodies."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from sidecar.core.outcome import SHORT_DEADLINE, SLOW_READER, Failure

if TYPE_CHECKING:
    from sidecar.core.body import Body


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


def describe_late_body(failure: Failure, body: Body) -> str:
    """Return the description of a response that was incomplete at its deadline."""
    if failure is SLOW_READER:
        return "the client did not read the response in time"
    if failure is SHORT_DEADLINE:
        return "the response's body was still arriving"
    return f"the response was cut off after {body.received} bytes of its body"
