"""Message: header fields of a request or response, as the lines received or as a list of pairs.

A proxy forwards most fields unchanged.  Lines that match the grammar (`core/http1.py`) are therefore forwarded as they
were received, and parsed into pairs only on demand.  Parsing and writing all fields would dominate the cost of a
request.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_tz
from functools import lru_cache
from typing import Final

Headers = list[tuple[bytes, bytes]]
"""Header fields in order: lower-case name and value as bytes (RFC 9110 5.1: names are case-insensitive)."""

TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
"""Token (RFC 9110 5.6.2)."""
FIELD_LINE: Final = TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+"
"""Field line (RFC 9112 5): name, colon at once, value of visible characters, spaces and obs-text."""
FIELD: Final = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")


def parse_fields(lines: bytes) -> Headers:
    """Return the pairs of field lines that match the grammar."""
    if lines.find(b" \r\n") >= 0 or lines.find(b"\t\r\n") >= 0:
        return [(name.lower(), value.rstrip(b" \t")) for name, value in FIELD.findall(lines)]
    return [(name.lower(), value) for name, value in FIELD.findall(lines)]


class Message:
    """Base of requests and outcomes: their header fields.

    `headers` and `lines` are the two views of the fields.  `parsed` and `raw` are their storage: for code that saves
    and restores them, or for which a property is too slow.
    """

    __slots__ = ("parsed", "raw")

    parsed: Headers | None
    """Fields as pairs, which may be changed in place; None until `headers` is first used."""
    raw: bytes
    """Fields as lines; valid while `parsed` is None."""

    @property
    def is_raw(self) -> bool:
        """True while the fields are stored as lines."""
        return self.parsed is None

    @property
    def headers(self) -> Headers:
        """Fields as pairs; the first access parses them."""
        if self.parsed is None:
            self.parsed = parse_fields(self.raw)
        return self.parsed

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self.parsed = headers

    @property
    def lines(self) -> bytes:
        """Fields as lines, each with its CRLF."""
        if self.parsed is None:
            return self.raw
        return b"".join([b"%b: %b\r\n" % field for field in self.parsed])

    @lines.setter
    def lines(self, lines: bytes) -> None:
        self.parsed = None
        self.raw = lines

    def take(self, names: Collection[bytes]) -> Headers:
        """Remove all fields with the given names (in lower case) and return them, in order."""
        headers = self.headers
        self.parsed = [pair for pair in headers if pair[0] not in names]
        return [pair for pair in headers if pair[0] in names]

    def add(self, name: bytes, value: bytes) -> None:
        """Append a field; `name` is in lower case."""
        if self.parsed is None:
            self.raw += b"%b: %b\r\n" % (name, value)
        else:
            self.parsed.append((name, value))

    def add_lines(self, lines: bytes) -> None:
        """Append fields that are given as lines, each with its CRLF."""
        if self.parsed is None:
            self.raw = self.raw + lines
        else:
            self.parsed += parse_fields(lines)

    def joined(self, name: bytes) -> bytes | None:
        """Return the combined value of a field (RFC 9110 5.3); None if it is absent.  `name` is in lower case."""
        if self.parsed is None:
            lines = self.raw
            lower, mark = b"\n" + lines.lower(), b"\n%b:" % name
            at = lower.find(mark)
            if at < 0:
                return None
            if lower.find(mark, at + 1) < 0:
                return lines[at + len(name) + 1 : lines.index(b"\r\n", at)].strip(b" \t")
        values = [value for key, value in self.headers if key == name]
        return b", ".join(values) if values else None

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a field; None if it is absent.  `name` is in lower case."""
        if self.parsed is None:
            lines = self.raw
            at = (b"\n" + lines.lower()).find(b"\n%b:" % name)
            return None if at < 0 else lines[at + len(name) + 1 : lines.index(b"\r\n", at)].strip(b" \t")
        for key, value in self.parsed:
            if key == name:
                return value
        return None


# ----- names

LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz"
SEPARATORS: Final = b"-_.!#$%&'*+^`|~"
"""Octets of a token (RFC 9110 5.6.2) that are neither letters nor digits."""
FOLDING: Final = bytes.maketrans(LETTERS.upper() + SEPARATORS, LETTERS + b"-" * len(SEPARATORS))
"""Translation table of `fold`."""


def fold(name: bytes) -> bytes:
    """Return the folded name of a field: in lower case, with `-` for every separator.

    CGI, WSGI and their frameworks do not tell case and separators apart: `X_User`, `x.user` and `X-User` are one
    variable (RFC 3875 4.1.18).  Two different names with the same folded name are called twins.
    """
    return name.translate(FOLDING)


# ----- field lines of a head

LINES: Final = 1024
"""Most lines, and most names, that a `Selection` caches."""
LINE: Final = 256
"""Longest line or name that is cached, in bytes; longer ones mostly differ from message to message."""
BLOCKS: Final = 256
"""Most blocks of field lines that a `Selection` caches."""
TOKEN_OCTETS: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VALUE_OCTETS: Final = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
"""Octets of field values.  Looking octets up is cheaper for long lines than matching `FIELD_LINE`."""
SECRETS: Final = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key"))
"""Names of fields with secrets, whose lines are not cached."""


class LineDecision:
    """Decision of a `Selection` on a field line: forward it, forward and note it, or take it."""

    __slots__ = ("field", "is_noted", "is_taken")

    def __init__(self, field: tuple[bytes, bytes], is_taken: bool = False, is_noted: bool = False) -> None:
        self.field = field
        """Name in lower case and value of a line that is taken; both empty for other lines."""
        self.is_taken = is_taken
        """True if the line is removed from the message and returned as a pair."""
        self.is_noted = is_noted
        """True if the line is forwarded and its presence reported."""


PASSING: Final = LineDecision((b"", b""))
"""Decision to forward a line."""
NOTED: Final = LineDecision((b"", b""), is_noted=True)
"""Decision to forward a line and to report its presence."""
TAKEN: Final = LineDecision((b"", b""), is_taken=True)
"""Decision to take the lines of a name; each such line has a `LineDecision` of its own."""


def is_cacheable(text: bytes) -> bool:
    """True if the decision on a field line may be cached."""
    return len(text) <= LINE and fold(text[: text.find(b":")]) not in SECRETS


Selected = tuple[bytes, Headers, bool]
"""Lines to forward, fields taken, and True if a line was noted."""


class Selection:
    """Set of field names to take from messages, with caches of recent lines and blocks, which are not checked again."""

    __slots__ = ("_guarded", "_kinds", "_known", "_names", "_noted", "_notices_twins", "_prefixes", "blocks")

    def __init__(
        self,
        names: frozenset[bytes],
        noted: frozenset[bytes] = frozenset(),
        prefixes: tuple[bytes, ...] = (),
        others: frozenset[bytes] = frozenset(),
    ) -> None:
        """Take the fields `names` and those whose names begin with one of `prefixes`; note the fields `noted`.

        Twins of all these are taken too.  If `others` are given, their twins are taken as well, and every other name
        with a separator that is no hyphen is noted.  All names are in lower case.
        """
        self._names = names
        self._noted = noted
        self._prefixes = prefixes
        self._guarded = names | noted | others
        """Names whose twins are taken."""
        self._notices_twins = bool(others)
        """True if names that may be a twin of any field are noted."""
        self._known: dict[bytes, LineDecision] = {}
        """Cached decisions by line."""
        self._kinds: dict[bytes, LineDecision] = {}
        """Cached decisions by name, as spelt."""
        self.blocks: dict[bytes, Selected] = {}
        """Cached results of `select` by block.  The clients of a service send few different blocks."""

    def take(self, data: bytes, start: int, end: int) -> Selected:
        """Split the field lines `data[start:end]`, which match the grammar, as `select` does."""
        texts = data[start:end].split(b"\r\n")
        del texts[-1]
        found = self.select(texts)
        assert found is not None
        return found

    def select(self, texts: list[bytes], block: bytes = b"") -> Selected | None:
        """Return the lines to forward, the fields taken, and True if a line was noted; None if a line is invalid.

        `texts` are field lines without their CRLF.  They are those of `block`; empty to cache nothing.  A block is
        cached once all its lines are, so no block is that has a line with a secret or of one message.
        """
        noticed = is_new = False
        taken: Headers = []
        kept: list[bytes] = []
        known = self._known
        for text in texts:
            line = known.get(text)
            if line is None:
                line = self.decide(text)
                if line is None:
                    return None
                is_new = True
                if is_cacheable(text):
                    if len(known) >= LINES:
                        known.clear()
                    known[text] = line
            if line.is_taken:
                taken.append(line.field)
            else:
                kept.append(text)
                if line.is_noted:
                    noticed = True
        kept.append(b"")
        found = b"\r\n".join(kept), taken, noticed
        if block and not is_new:
            if len(self.blocks) >= BLOCKS:
                self.blocks.clear()
            self.blocks[block] = found
        return found

    def decide(self, text: bytes) -> LineDecision | None:
        """Return the decision on a line; None if it is not a valid field line."""
        colon = text.find(b":")
        if colon < 0 or text.translate(None, VALUE_OCTETS):
            return None
        name = text[:colon]
        kind = self._kinds.get(name)
        if kind is None:
            if not name or name.translate(None, TOKEN_OCTETS):
                return None
            kind = self._decide_by_name(name)
        if kind is TAKEN:
            return LineDecision((name.lower(), text[colon + 1 :].strip(b" \t")), is_taken=True)
        return kind

    def _decide_by_name(self, name: bytes) -> LineDecision:
        """Return the decision on the lines of a name and cache it: values change more often than names."""
        lower, folded = name.lower(), fold(name)
        kind = PASSING
        if lower in self._noted:
            kind = NOTED
        elif lower in self._names or folded.startswith(self._prefixes) or (folded != lower and folded in self._guarded):
            kind = TAKEN
        elif folded != lower and self._notices_twins:  # may be a twin of a field that responses vary by
            kind = NOTED
        if len(name) <= LINE:
            if len(self._kinds) >= LINES:
                self._kinds.clear()
            self._kinds[name] = kind
        return kind


# ----- lists of fields, and their values

HOP_BY_HOP: Final = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
        b"trailer", b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
"""Hop-by-hop fields, which are not forwarded (RFC 9110 7.6.1).  Fields that `Connection` names are dropped too."""
FOR_CACHES: Final = frozenset(
    (
        b"authorization", b"cache-control", b"cookie", b"if-match", b"if-modified-since", b"if-none-match", b"if-range",
        b"if-unmodified-since", b"pragma", b"range",
    )
)  # fmt: skip
"""Request fields that change how a cache answers the request, or what it stores (RFC 9111)."""
CLAIMS: Final = frozenset(
    (
        # Address of the client (RFC 7239; nginx, Akamai, Cloudflare, Fastly, Fly, Azure, Envoy, WebLogic, DigitalOcean,
        # Netlify, Vercel, Imperva).
        b"forwarded", b"forwarded-for", b"x-forwarded", b"x-real-ip", b"client-ip", b"x-client-ip", b"true-client-ip",
        b"x-true-client-ip", b"x-cluster-client-ip", b"x-original-forwarded-for", b"x-originating-ip",
        b"x-proxyuser-ip", b"cf-connecting-ip", b"cf-connecting-ipv6", b"fastly-client-ip", b"fly-client-ip",
        b"x-azure-clientip", b"x-azure-socketip", b"proxy-client-ip", b"wl-proxy-client-ip", b"do-connecting-ip",
        b"x-nf-client-connection-ip",
        b"x-vercel-forwarded-for", b"incap-client-ip",
        # Original target, method and scheme (IIS, Symfony, Rails, Next.js, Rack; Gunicorn takes the path from
        # SCRIPT_NAME and PATH_INFO if they come from loopback).
        b"x-original-url", b"x-original-uri", b"x-original-path", b"x-original-method", b"x-original-host",
        b"x-original-proto", b"x-rewrite-url", b"x-override-url", b"x-http-method-override", b"x-http-method",
        b"x-method-override", b"x-host", b"x-http-host-override", b"x-middleware-subrequest", b"x-sendfile-type",
        b"x-accel-mapping", b"x-scheme", b"x-url-scheme", b"front-end-https", b"script-name", b"path-info",
        b"x-script-name",
        # Identity of the client (RFC 9440 2.4; CGI's REMOTE_USER; Authelia, Azure, Cloudflare), and CGI's HTTP_PROXY
        # (CVE-2016-5385).
        b"remote-user", b"remote-groups", b"remote-email", b"remote-name", b"cf-access-authenticated-user-email",
        b"x-authenticated-user", b"x-authenticated-userid", b"x-authenticated-email",
        b"x-authenticated-groups", b"client-cert", b"client-cert-chain", b"x-client-cert", b"x-client-dn",
        b"x-client-verify", b"x-arr-clientcert", b"x-spiffe-id", b"proxy",
        # Orders to a mesh behind the sidecar (Dapr calls another application, Knative another revision).
        b"dapr-app-id", b"dapr-caller-app-id", b"dapr-callee-app-id", b"knative-serving-namespace",
        b"knative-serving-revision",
    )
)  # fmt: skip
"""Folded names of fields that only a trusted peer may send.  With them a proxy states the client's address, identity
and original request, or gives orders to the next proxy."""
CLAIM_PREFIXES: Final = (
    b"x-forwarded-", b"x-auth-request-", b"x-remote-", b"x-webauth-", b"x-ssl-client-", b"ssl-client-",
    b"x-tls-client-", b"x-amzn-oidc-", b"x-amzn-mtls-", b"x-ms-client-principal", b"x-goog-authenticated-user-",
    b"x-goog-iap-", b"x-authentik-", b"x-pomerium-claim-", b"x-vouch-", b"x-consumer-", b"x-credential-",
    b"tailscale-user-", b"x-envoy-", b"x-istio-", b"l5d-",
)  # fmt: skip
"""Prefixes of further `CLAIMS` (oauth2-proxy, Kubernetes, Grafana, mod_ssl, ALB, App Service, Google IAP, authentik,
Pomerium, Vouch, Kong, Tailscale, Envoy, Istio, Linkerd).  Those of the last three also control a proxy: its timeouts,
retries, traces and choice of endpoint."""
LONGEST_WAIT: Final = 1e9
"""Longest `Retry-After` in seconds; a longer one counts as this."""
LONGEST_DATE: Final = 64
"""Longest date that is parsed, in bytes; every form of HTTP-date is shorter."""


def get(headers: Headers, name: bytes) -> bytes | None:
    """Return the first value of a field; None if it is absent.  `name` is in lower case."""
    for key, value in headers:
        if key == name:
            return value
    return None


def get_all(headers: Headers, name: bytes) -> list[bytes]:
    """Return all values of a field, in order.  `name` is in lower case."""
    return [value for key, value in headers if key == name]


def without(headers: Headers, *names: bytes) -> Headers:
    """Return a copy without the named fields.  The names are in lower case."""
    return [pair for pair in headers if pair[0] not in names]


def tokens(headers: Headers, name: bytes) -> list[bytes]:
    """Return the members of a list field (RFC 9110 5.6.1) in lower case, those of all its lines."""
    return [
        token
        for key, value in headers
        if key == name
        for part in value.split(b",")
        if (token := part.strip(b" \t").lower())
    ]


def http_date(value: bytes | None) -> float | None:
    """Return the Unix time in seconds of an HTTP-date in any of its three forms (RFC 9110 5.6.7); None if invalid."""
    if value is None or len(value) > LONGEST_DATE:
        return None
    date = parsedate_tz(value.decode("latin-1"))
    if date is None:
        return None
    try:
        return datetime(*date[:6], tzinfo=UTC).timestamp() - (date[9] or 0)
    except (ValueError, OverflowError):  # `parsedate_tz` does not check the ranges of its numbers
        return None


def write_http_date(wall: float) -> bytes:
    """Return the IMF-fixdate (RFC 9110 5.6.7) of a Unix time in seconds."""
    return _date_of_second(int(wall // 1))


@lru_cache(maxsize=4)
def _date_of_second(second: int) -> bytes:
    """Return the date of a second, which all responses within it share."""
    return formatdate(second, usegmt=True).encode()


def retry_after(headers: Headers, wall: float) -> float | None:
    """Return the seconds of `Retry-After` (RFC 9110 10.2.3), 0 for a date in the past; None if absent or invalid.

    A date is compared with the response's own `Date`, so that clock skew does not matter; without that field, with the
    Unix time `wall`.
    """
    value = get(headers, b"retry-after")
    if value is None:
        return None
    if value.isdigit():
        return min(float(value), LONGEST_WAIT)
    when = http_date(value)
    if when is None:
        return None
    sent = http_date(get(headers, b"date"))
    return min(max(0.0, when - (wall if sent is None else sent)), LONGEST_WAIT)
