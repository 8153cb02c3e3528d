"""Check of files that policies name and that must exist on this machine: certificates, keys, secrets.

`sidecar check` does not read these files, because it often runs on another machine.  A starting process checks all of
them.  A reload checks only those that the policies newly name.  So a certificate that is just being replaced does not
make a reload fail; the pair in use stays (`upstream/certificates.py`).
"""

from __future__ import annotations

from sidecar.config.spec import PolicySpec
from sidecar.core.spec import Problem, SecretFile, reveal
from sidecar.upstream.tls import check_files


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
