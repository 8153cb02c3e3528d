"""Readers of keys and costs of requests.

A key is a text; empty if the request has none.  Clients choose most keys, so a long one is replaced by its digest, and
keys of `otherwise` have a prefix that no other key can have: no field and no path contains a NUL, and in a claim it is
escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address
from typing import Final, Protocol

from sidecar.core.exchange import Exchange
from sidecar.core.template import Template
from sidecar.limits.spec import ADDRESS, CALLER, CLAIMS, NO_KEY, AnswerSize

LONGEST: Final = 64
"""Longest key in characters that is stored as it is."""
ADDRESSES: Final = 4096
"""IPv6 addresses whose networks are remembered."""

ReadKey = Callable[[Exchange], str]
"""Function that returns the key of a request, empty if it has none."""
ReadCost = Callable[[Exchange], float]
"""Function that returns the cost of a request."""


class Keyed(Protocol):
    """Spec of a limit, as far as it tells requests apart."""

    @property
    def key(self) -> str:
        """Key by which requests are counted."""

    @property
    def otherwise(self) -> str:
        """Key of requests that do not have the first one."""

    @property
    def ipv6_prefix(self) -> int:
        """Length of the prefix by which IPv6 addresses are counted."""


def key_reader(spec: Keyed) -> ReadKey:
    """Return the reader of a limit's key."""
    first = _reader(spec.key, spec.ipv6_prefix)
    if spec.otherwise == NO_KEY or spec.key == NO_KEY:
        return first
    second = _reader(spec.otherwise, spec.ipv6_prefix)
    return lambda x: first(x) or f"\0={second(x)}"


def cost_reader(text: int | float | str | AnswerSize, most: float) -> ReadCost | None:
    """Return the reader of a cost that is a template; None for any other.  A cost is never more than `most`."""
    if not isinstance(text, str):
        return None
    template = Template(text, {})

    def read(x: Exchange) -> float:
        try:
            cost = float(template.render(x))
        except ValueError:
            return 1.0
        return min(max(cost, 1.0), most) if cost == cost else 1.0  # `nan` is unequal to itself

    return read


def shortened(key: str) -> str:
    """Return the key, or its digest if it is long."""
    if len(key) <= LONGEST:
        return key
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=24).hexdigest()


@lru_cache(ADDRESSES)
def network(address: str, prefix: int) -> str:
    """Return the network of an IPv6 address, in hex; of an IPv4-mapped address, the IPv4 address."""
    try:
        found = IPv6Address(address.partition("%")[0])
    except ValueError:
        return shortened(address)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{int(found) >> (128 - prefix):x}/{prefix}"


def _reader(key: str, prefix: int) -> ReadKey:
    """Return the reader of a key of the policy file."""
    family, _, name = key.partition(".")
    if key == ADDRESS:
        return lambda x: x.client_address if x.client_address.find(":") < 0 else network(x.client_address, prefix)
    if key == CALLER:
        return lambda x: "" if x.caller is None else shortened(_encodable(f"{x.caller.identity}/{x.caller.id}"))
    if key.startswith(CLAIMS):
        return _claim_reader(key.removeprefix(CLAIMS))
    if family == "header":
        field = name.encode()
        return lambda x: shortened((x.header(field) or b"").decode("latin-1"))
    if family == "path":
        return lambda x: shortened(x.captures.get(name, ""))
    return lambda _: ""


def _encodable(text: str) -> str:
    """Return the text with NUL and lone surrogates escaped, which JSON may contain.

    Keys of the sidecar's own begin with a NUL, and no store can encode a lone surrogate.
    """
    if text.isascii() and text.isprintable():
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _claim_reader(name: str) -> ReadKey:
    """Return the reader of a claim about the caller; a claim that is no text counts by its JSON."""

    def read(x: Exchange) -> str:
        value = None if x.caller is None else x.caller.claims.get(name)
        if value is None:
            return ""
        return shortened(_encodable(value) if isinstance(value, str) else json.dumps(value, sort_keys=True))

    return read
