"""Header fields of a request or response: the lines as they came, and a list of pairs once somebody asks for one.

A proxy passes most fields on untouched, so it does not take them apart: lines that the grammar has accepted
(`core/http1.py`) go out as they came in, with their own spelling.  Taking apart and putting together again costs 0.4 us
a field, half of all that a request with a browser's fields costs here.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_tz
from typing import Final

Headers = list[tuple[bytes, bytes]]
"""Header fields in order: lower-case name and value as bytes (RFC 9110 5.1: names are case-insensitive)."""

TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
"""Token (RFC 9110 5.6.2)."""
FIELD_LINE: Final = TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+"
"""Field line (RFC 9112 5): name, colon at once, value of visible characters, spaces and obs-text."""
FIELD: Final = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")


def parse_fields(lines: bytes) -> Headers:
    """Field lines that match the grammar, as pairs."""
    if lines.find(b" \r\n") >= 0 or lines.find(b"\t\r\n") >= 0:
        return [(name.lower(), value.rstrip(b" \t")) for name, value in FIELD.findall(lines)]
    return [(name.lower(), value) for name, value in FIELD.findall(lines)]


class Message:
    """Anything with header fields.

    `headers` and `lines` are the two views of the fields.  `parsed` and `raw` are how they are stored: for code that
    keeps them to put them back, or for which a property costs too much.
    """

    __slots__ = ("parsed", "raw")

    parsed: Headers | None
    """Fields as pairs, which may be changed in place; None while nobody has asked for them."""
    raw: bytes
    """Fields as lines; they count while `parsed` is None."""

    @property
    def is_raw(self) -> bool:
        """True while the fields are the lines that came."""
        return self.parsed is None

    @property
    def headers(self) -> Headers:
        """All fields as pairs."""
        if self.parsed is None:
            self.parsed = parse_fields(self.raw)
        return self.parsed

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self.parsed = headers

    @property
    def lines(self) -> bytes:
        """All fields as they go on the wire, each line with its CRLF."""
        if self.parsed is None:
            return self.raw
        return b"".join([b"%b: %b\r\n" % field for field in self.parsed])

    @lines.setter
    def lines(self, lines: bytes) -> None:
        self.parsed = None
        self.raw = lines

    def take(self, names: Collection[bytes]) -> Headers:
        """Take fields off, all of each name (in lower case), in order."""
        headers = self.headers
        self.parsed = [pair for pair in headers if pair[0] not in names]
        return [pair for pair in headers if pair[0] in names]

    def add(self, name: bytes, value: bytes) -> None:
        """One more field at the end."""
        if self.parsed is None:
            self.raw += b"%b: %b\r\n" % (name, value)
        else:
            self.parsed.append((name, value))

    def add_lines(self, lines: bytes) -> None:
        """More fields at the end, as lines."""
        if self.parsed is None:
            self.raw = self.raw + lines
        else:
            self.parsed += parse_fields(lines)

    def joined(self, name: bytes) -> bytes | None:
        """All values of a field, joined as one list (RFC 9110 5.3); None where there is none.  `name` is lower case."""
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
        """The first value of a field, None where there is none.  `name` is lower case."""
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
"""Octets of a name (RFC 9110 5.6.2) that are neither letters nor digits."""
FOLDING: Final = bytes.maketrans(LETTERS.upper() + SEPARATORS, LETTERS + b"-" * len(SEPARATORS))


def fold(name: bytes) -> bytes:
    """Return the name that CGI, WSGI and the frameworks behind them take a field's name for.

    They read letters of both cases, and every separator, alike: `X_User`, `x.user` and `X-User` are one variable there
    (RFC 3875 4.1.18).  Two names with the same folded name are called twins.
    """
    return name.translate(FOLDING)


# ----- field lines of a head

LINES: Final = 1024
"""How many lines, and how many names, a `Selection` remembers."""
LINE: Final = 256
"""Bytes of the longest of them: what is longer mostly differs from message to message."""
TOKEN_OCTETS: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VALUE_OCTETS: Final = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
"""Octets of names and of values: for long lines a good deal cheaper than `FIELD_LINE`."""
SECRETS: Final = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key"))
"""Never remembered."""


class Line:
    """What is to be done with one."""

    __slots__ = ("field", "is_noted", "is_taken")

    def __init__(self, field: tuple[bytes, bytes], is_taken: bool = False, is_noted: bool = False) -> None:
        self.field = field
        """Its name, in lower case, and its value, where it is taken."""
        self.is_taken = is_taken
        self.is_noted = is_noted


PASSING: Final = Line((b"", b""))
NOTED: Final = Line((b"", b""), is_noted=True)
TAKEN: Final = Line((b"", b""), is_taken=True)
"""Kind of all names that are taken; a line of one has a `Line` of its own."""


def is_memorable(text: bytes) -> bool:
    """True if a field line may be remembered."""
    return len(text) <= LINE and fold(text[: text.find(b":")]) not in SECRETS


class Selection:
    """Names of fields, and what the lines of late were: a line that is remembered is not checked again."""

    __slots__ = ("_guarded", "_kinds", "_known", "_names", "_noted", "_notices_twins", "_prefixes")

    def __init__(
        self,
        names: frozenset[bytes],
        noted: frozenset[bytes] = frozenset(),
        prefixes: tuple[bytes, ...] = (),
        others: frozenset[bytes] = frozenset(),
    ) -> None:
        """Take the fields `names`, and those whose names begin with one of `prefixes`; notice the fields `noted`.
        The twins of all these are taken too.  Where there are `others`, so are theirs, and any other name that may be a
        twin is noticed.  All names are in lower case."""
        self._names = names
        self._noted = noted
        self._prefixes = prefixes
        self._guarded = names | noted | others
        """Names whose twins are taken."""
        self._notices_twins = bool(others)
        self._known: dict[bytes, Line] = {}
        self._kinds: dict[bytes, Line] = {}

    def take(self, data: bytes, start: int, end: int) -> tuple[bytes, Headers, bool]:
        """Split a head whose field lines are `data[start:end]`, as `select` does.  The grammar has accepted them."""
        texts = data[start:end].split(b"\r\n")
        del texts[-1]
        found = self.select(texts)
        assert found is not None
        return found

    def select(self, texts: list[bytes]) -> tuple[bytes, Headers, bool] | None:
        """Split field lines: those that pass, the fields taken, and whether one was noticed.

        Return None if a line is no field line.
        """
        noticed = False
        taken: Headers = []
        kept: list[bytes] = []
        known = self._known
        for text in texts:
            line = known.get(text)
            if line is None:
                line = self.read(text)
                if line is None:
                    return None
                if is_memorable(text):
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
        return b"\r\n".join(kept), taken, noticed

    def read(self, text: bytes) -> Line | None:
        """Return what is to be done with a line; None if it is no field line."""
        colon = text.find(b":")
        if colon < 0 or text.translate(None, VALUE_OCTETS):
            return None
        name = text[:colon]
        kind = self._kinds.get(name)
        if kind is None:
            if not name or name.translate(None, TOKEN_OCTETS):
                return None
            kind = self._judge(name)
        if kind is TAKEN:
            return Line((name.lower(), text[colon + 1 :].strip(b" \t")), is_taken=True)
        return kind

    def _judge(self, name: bytes) -> Line:
        """Return what is to be done with the lines of a name, and remember it: values change more often than names."""
        lower, folded = name.lower(), fold(name)
        kind = PASSING
        if lower in self._noted:
            kind = NOTED
        elif lower in self._names or folded.startswith(self._prefixes) or (folded != lower and folded in self._guarded):
            kind = TAKEN
        elif folded != lower and self._notices_twins:  # a twin of a field that answers may differ by
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
"""Fields of one connection, never forwarded (RFC 9110 7.6.1); fields that `Connection` names are dropped as well."""
FOR_CACHES: Final = frozenset(
    (
        b"authorization", b"cache-control", b"cookie", b"if-match", b"if-modified-since", b"if-none-match", b"if-range",
        b"if-unmodified-since", b"pragma", b"range",
    )
)  # fmt: skip
"""Fields of a request that have a say in how a cache answers it, or in what it stores (RFC 9111)."""
CLAIMS: Final = frozenset(
    (
        # Where the client is (RFC 7239; nginx, Akamai, Cloudflare, Fastly, Fly, Azure, Envoy, WebLogic, DigitalOcean,
        # Netlify, Vercel, Imperva).
        b"forwarded", b"forwarded-for", b"x-forwarded", b"x-real-ip", b"client-ip", b"x-client-ip", b"true-client-ip",
        b"x-true-client-ip", b"x-cluster-client-ip", b"x-original-forwarded-for", b"x-originating-ip",
        b"x-proxyuser-ip", b"cf-connecting-ip", b"cf-connecting-ipv6", b"fastly-client-ip", b"fly-client-ip",
        b"x-azure-clientip", b"x-azure-socketip", b"proxy-client-ip", b"wl-proxy-client-ip", b"do-connecting-ip",
        b"x-nf-client-connection-ip",
        b"x-vercel-forwarded-for", b"incap-client-ip",
        # What it asks for, and how it came (IIS, Symfony, Rails, Next.js, Rack; Gunicorn takes the path
        # from SCRIPT_NAME and PATH_INFO if they come from loopback).
        b"x-original-url", b"x-original-uri", b"x-original-path", b"x-original-method", b"x-original-host",
        b"x-original-proto", b"x-rewrite-url", b"x-override-url", b"x-http-method-override", b"x-http-method",
        b"x-method-override", b"x-host", b"x-http-host-override", b"x-middleware-subrequest", b"x-sendfile-type",
        b"x-accel-mapping", b"x-scheme", b"x-url-scheme", b"front-end-https", b"script-name", b"path-info",
        b"x-script-name",
        # Who it is (RFC 9440 2.4; CGI's REMOTE_USER; Authelia, Azure, Cloudflare), and CGI's HTTP_PROXY
        # (CVE-2016-5385).
        b"remote-user", b"remote-groups", b"remote-email", b"remote-name", b"cf-access-authenticated-user-email",
        b"x-authenticated-user", b"x-authenticated-userid", b"x-authenticated-email",
        b"x-authenticated-groups", b"client-cert", b"client-cert-chain", b"x-client-cert", b"x-client-dn",
        b"x-client-verify", b"x-arr-clientcert", b"x-spiffe-id", b"proxy",
        # What a mesh behind us is to do with it (Dapr calls another application, Knative another revision).
        b"dapr-app-id", b"dapr-caller-app-id", b"dapr-callee-app-id", b"knative-serving-namespace",
        b"knative-serving-revision",
    )
)  # fmt: skip
"""Fields by which a proxy tells the service who asks, from where and for what, or tells the next proxy what to do.
Only a trusted peer may send them.  All names are folded."""
CLAIM_PREFIXES: Final = (
    b"x-forwarded-", b"x-auth-request-", b"x-remote-", b"x-webauth-", b"x-ssl-client-", b"ssl-client-",
    b"x-tls-client-", b"x-amzn-oidc-", b"x-amzn-mtls-", b"x-ms-client-principal", b"x-goog-authenticated-user-",
    b"x-goog-iap-", b"x-authentik-", b"x-pomerium-claim-", b"x-vouch-", b"x-consumer-", b"x-credential-",
    b"tailscale-user-", b"x-envoy-", b"x-istio-", b"l5d-",
)  # fmt: skip
"""Beginnings of further such names (oauth2-proxy, Kubernetes, Grafana, mod_ssl, ALB, App Service, Google IAP,
authentik, Pomerium, Vouch, Kong, Tailscale, Envoy, Istio, Linkerd).  The last three also have orders to the proxy: its
timeouts, retries, traces and the endpoint."""
LONGEST_WAIT: Final = 1e9
"""Seconds; a longer `Retry-After` counts as this."""
LONGEST_DATE: Final = 64
"""Bytes of the longest date that is parsed; no form of HTTP-date is as long."""


def get(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a field."""
    for key, value in headers:
        if key == name:
            return value
    return None


def get_all(headers: Headers, name: bytes) -> list[bytes]:
    """All values of a field, in order."""
    return [value for key, value in headers if key == name]


def without(headers: Headers, *names: bytes) -> Headers:
    """A copy that lacks the named fields."""
    return [pair for pair in headers if pair[0] not in names]


def tokens(headers: Headers, name: bytes) -> list[bytes]:
    """The members of a comma-separated list field, all its lines joined, in lower case (RFC 9110 5.6.1)."""
    return [
        token
        for key, value in headers
        if key == name
        for part in value.split(b",")
        if (token := part.strip(b" \t").lower())
    ]


def http_date(value: bytes | None) -> float | None:
    """Seconds since 1970 of an HTTP-date in any of the three forms of RFC 9110 5.6.7; None where it is none."""
    if value is None or len(value) > LONGEST_DATE:
        return None
    date = parsedate_tz(value.decode("latin-1"))
    if date is None:
        return None
    try:
        return datetime(*date[:6], tzinfo=UTC).timestamp() - (date[9] or 0)
    except (ValueError, OverflowError):  # the parser lets through numbers that no calendar has
        return None


def write_http_date(wall: float) -> bytes:
    """An IMF-fixdate (RFC 9110 5.6.7) for seconds since 1970."""
    return formatdate(wall, usegmt=True).encode()


def retry_after(headers: Headers, wall: float) -> float | None:
    """Seconds of `Retry-After` (RFC 9110 10.2.3), zero where its date is past; None where it is absent or invalid.

    A date is read against the response's own `Date`, so that the two clocks need not agree; without one against `wall`.
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
