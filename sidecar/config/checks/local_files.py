"""Checks of files that policies name, on this machine: certificates, keys, secrets.

A starting process needs all of them.  A reload checks only those that the policies newly name.  So a certificate that
is just being replaced does not make a reload fail; the pair in use stays (`upstream/certificates.py`).  `sidecar check`
often runs on another machine and needs none, but warns of files that say that they expire.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sidecar.certificate_dates import read_period
from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec
from sidecar.core.env import system_time
from sidecar.core.spec import Problem, SecretFile, reveal
from sidecar.upstream.tls import check_files, files_of


def check_local_files(new: PolicySpec, old: PolicySpec | None) -> list[Problem]:
    """Return the problems of files that `new` names and `old` does not; `old` is None at the start of the process.

    Blocks while it reads the files.
    """
    problems = []
    for section in ("listeners", "upstreams"):
        before = {} if old is None else getattr(old, section)
        for name, spec in getattr(new, section).items():
            if spec.tls is None or (name in before and before[name].tls == spec.tls):
                continue
            for error in check_files(spec.tls):
                path = (section, name, "tls", error.setting)
                problems.append(Problem(*new.where(*path), ".".join(path), str(error)))
    token = None if new.admin is None or old is not None else new.admin.token
    if isinstance(token, SecretFile):
        try:
            reason = "" if reveal(token) else "is empty, which would let everyone in"
        except (OSError, UnicodeDecodeError) as error:
            reason = f"cannot be read: {error.strerror if isinstance(error, OSError) else 'it is not UTF-8 text'}"
        if reason:
            problems.append(Problem(*new.where("admin", "token", "file"), "admin.token.file", f"{token.file} {reason}"))
    return [each._replace(message=new.masks.text(each.message)) for each in problems]


def check_certificates(spec: PolicySpec, report: Report, now: float | None = None) -> None:
    """Warn of files that have expired, or expire soon; `now` is the Unix time, by default that of the system."""
    now = system_time() if now is None else now
    for path, tls in _blocks(spec):
        for setting, file in files_of(tls):
            period = read_period(setting, file)
            if period is not None and (text := period.describe(file, setting, now)):
                report.warn(spec.node.nearest(*path, "tls", setting), f"names a file to renew: {text}")


def _blocks(spec: PolicySpec) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the TLS blocks of listeners, upstreams, identity providers and the collector, with their places."""
    if spec.telemetry is not None and spec.telemetry.tls is not None:
        yield ("telemetry",), spec.telemetry.tls
    for section in ("listeners", "upstreams"):
        for name, each in getattr(spec, section).items():
            if each.tls is not None:
                yield (section, name), each.tls
    for name, upstream in spec.upstreams.items():
        oauth2 = None if upstream.credentials is None else upstream.credentials.oauth2
        if oauth2 is not None and oauth2.tls is not None:
            yield ("upstreams", name, "credentials", "oauth2"), oauth2.tls
    for name, identity in spec.identities.items():
        keys = None if identity.jwt is None else identity.jwt.keys
        for kind, each in (("jwt", keys), ("introspection", identity.introspection), ("external", identity.external)):
            if each is not None and each.tls is not None:
                inner = ("jwt", "keys") if kind == "jwt" else (kind,)
                yield ("identities", name, *inner), each.tls
