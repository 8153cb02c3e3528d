"""Tests of errors in words."""

from __future__ import annotations

import socket
import ssl

import pytest

from sidecar.upstream.errors import describe_error


def verification(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] ... (_ssl.c:1006)")
    error.verify_message = message
    return error


def tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] ... (_ssl.c:1006)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (ConnectionResetError(104, "Connection reset by peer"), "connection reset by peer"),
        (ConnectionResetError(), "ConnectionResetError"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
        (OSError("Multiple exceptions: one, two"), "Multiple exceptions: one, two"),
        (verification("self-signed certificate"), "certificate verify failed: self-signed certificate"),
        (tls("WRONG_VERSION_NUMBER"), "TLS: wrong version number"),
    ],
)
def test_errors_are_told_in_words(error: Exception, expected: str) -> None:
    assert describe_error(error) == expected
