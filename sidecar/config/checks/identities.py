"""Check of identities and of the routes that use them: warnings for what lets in more than was probably meant."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sidecar.config.node import Node
from sidecar.config.report import Report
from sidecar.config.spec import NO_LISTENER, PolicySpec
from sidecar.core.spec import SecretFile

if TYPE_CHECKING:
    from sidecar.identity.outgoing.spec import CredentialsSpec
    from sidecar.identity.spec import IdentitySpec

AUTHENTICATE: Final = "authenticate"
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def check_identities(spec: PolicySpec, report: Report) -> None:
    """Warn of routes that everyone may call beside others, of missing audiences, plain http, and keys in URLs."""
    for name, identity in spec.identities.items():
        _identity(spec, name, identity, report)
    blocks = {route.name: route.blocks.get(AUTHENTICATE) for route in spec.all_routes}
    if any(blocks.values()):
        for route in spec.all_routes:
            if blocks[route.name] is None and not route.is_open and route.listener != NO_LISTENER:
                message = "may be called by everyone, while other routes authenticate; write `authenticate: off` if so"
                report.warn(route.node.nearest("name"), message)
    for route in spec.all_routes:
        if route.by_caller and blocks[route.name] is None:
            report.warn(route.node.nearest("criticality", "by_caller"), "has no effect without authenticate; add it")
        for name in route.by_caller:
            if "*" in name:
                message = f"names the caller `{name}`, and `*` stands for nothing else here; use otherwise for the rest"
                report.warn(route.node.nearest("criticality", "by_caller", name), message)
        any_of: Sequence[str] = getattr(blocks[route.name], "any_of", ())
        for name in dict.fromkeys(each for each in any_of if any_of.count(each) > 1):
            report.warn(route.node.nearest(AUTHENTICATE, "any_of"), f"names the identity `{name}` twice; take one out")
        _certificates(spec, route, blocks[route.name], report)
        token = getattr(getattr(blocks[route.name], "forward", None), "token", None)
        if token is not None and token.key is not None:
            _exposed(token.key, route.node.nearest(AUTHENTICATE, "forward", "token", "key"), report)
    for name, upstream in spec.upstreams.items():
        if upstream.credentials is not None:
            _outgoing(upstream.credentials, spec.node.nearest("upstreams", name, "credentials"), report)


def _outgoing(credentials: CredentialsSpec, where: Node, report: Report) -> None:
    """Warn of secrets of the sidecar itself that others can read."""
    for keys, path in credentials.files:
        _exposed(path, where.nearest(*keys), report)
    if credentials.oauth2 is not None:
        _plain(credentials.oauth2.token_url, where.nearest("oauth2", "token_url"), "the secret", report)


def _identity(spec: PolicySpec, name: str, identity: IdentitySpec, report: Report) -> None:
    where = spec.node.nearest("identities", name)
    if (jwt := identity.jwt) is not None:
        if not jwt.audiences:
            report.warn(
                where.nearest("jwt"), "accepts tokens for other services too; name this one: audiences: [orders]"
            )
        for key in ("url", "discovery"):
            _plain(getattr(jwt.keys, key), where.nearest("jwt", "keys", key), "keys", report)
        if jwt.keys.is_remote and jwt.keys.url is None and jwt.keys.discovery is None:
            _plain(jwt.issuer, where.nearest("jwt", "issuer"), "keys", report)
        if jwt.keys.inline is not None:
            _inline(jwt.keys.inline, where.nearest("jwt", "keys", "inline"), report)
        if jwt.keys.file is not None and any(name.startswith("HS") for name in jwt.algorithms):
            _exposed(jwt.keys.file, where.nearest("jwt", "keys", "file"), report)
    if identity.introspection is not None:
        secret = identity.introspection.client.secret
        if isinstance(secret, SecretFile):
            _exposed(secret.file, where.nearest("introspection", "client", "secret", "file"), report)
        _plain(identity.introspection.url, where.nearest("introspection", "url"), "tokens and the secret", report)
    if identity.api_key is not None:
        _exposed(identity.api_key.file, where.nearest("api_key", "file"), report)
    if identity.api_key is not None and identity.api_key.parameter is not None:
        message = "puts keys into URLs, which clients, proxies and services log; prefer a header"
        report.warn(where.nearest("api_key", "parameter"), message)


def _inline(keys: Sequence[dict[str, Any]], node: Node, report: Report) -> None:
    """Report keys of the policy itself that cannot be used."""
    from sidecar.identity.keys import read_keys  # loads cryptography

    try:
        _, problems = read_keys(list(keys), has_secrets=True)
    except ValueError as error:
        problems = [str(error)]
    for problem in problems:
        report.error_in(node, problem)


def _exposed(path: str, node: Node, report: Report) -> None:
    """Warn of a file that every user can read, or that this user cannot read, if it is on this machine."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not os.access(path, os.R_OK):
        report.warn(node, f"cannot be read by this user; change the owner or the mode of {path}")
    if mode & stat.S_IROTH:
        report.warn(node, f"can be read by every user of this machine; chmod 600 {path}")


def _plain(url: str | None, node: Node, what: str, report: Report) -> None:
    """Warn of a URL without TLS on another machine."""
    parts = urlsplit(url or "")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        report.warn(node, f"gets {what} over plain http, which anyone on the way can change; write https")


def _certificates(spec: PolicySpec, route: Any, block: Any, report: Report) -> None:
    """Warn of a route that accepts certificates on a listener that asks for none."""
    if block is None:
        return
    names = [name for name in block.any_of if name in spec.identities and spec.identities[name].certificate is not None]
    listeners = [each for name, each in spec.listeners.items() if route.listener in (None, name)]
    if names and not any(each.tls is not None and each.tls.client_ca is not None for each in listeners):
        node = route.node.nearest(AUTHENTICATE, "any_of")
        report.warn(node, f"accepts certificates ({names[0]}), but no listener asks for one; add tls.client_ca to it")
