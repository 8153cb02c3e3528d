"""REST requests for a service that answers each call with its message, and its descriptor set.

Rules with `response_body` are left out: Envoy takes them for `google.api.HttpBody` alone.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from tests.support.protos import compile_proto
from tests.unit.grpc.types import PROTO as TYPES

METHODS: Final = {
    "Scalars": ("Scalars", 'get: "/v1/scalars" additional_bindings { post: "/v1/scalars" body: "*" }'),
    "Named": ("Inner", 'get: "/v1/names/{name}" additional_bindings { post: "/v1/names/{name}" body: "inner" }'),
    "Deep": ("Inner", 'get: "/v1/{inner.name=places/*/rooms/*}/deep"'),
    "Tree": ("Inner", 'get: "/v1/tree/{name=**}"'),
    "Verb": ("Inner", 'post: "/v1/names/{name}:rename" body: "*"'),
    "Lists": ("Lists", 'get: "/v1/lists" additional_bindings { post: "/v1/lists" body: "*" }'),
    "Maps": ("Maps", 'post: "/v1/maps" body: "*"'),
    "Choice": ("Choice", 'get: "/v1/choice" additional_bindings { post: "/v1/choice" body: "*" }'),
    "Known": ("Known", 'get: "/v1/known" additional_bindings { post: "/v1/known" body: "*" }'),
    "All": ("All", 'get: "/v1/all" additional_bindings { post: "/v1/all" body: "*" }'),
    "Fail": ("Inner", 'get: "/v1/fail/{count}/{name}"'),
}
"""Type of the message and rule of each method."""
STREAMS: Final = {"Stream": ("Inner", 'get: "/v1/stream/{count}/{name}"')}
"""Methods whose answer is the message `count` times, or the status of that number if `name` is `fail`."""
RPCS: Final = [
    f"rpc {name}({kind}) returns ({prefix}{kind}) {{ option (google.api.http) = {{ {rule} }}; }}"
    for methods, prefix in ((METHODS, ""), (STREAMS, "stream "))
    for name, (kind, rule) in methods.items()
]
DATA: Final = compile_proto(f"{TYPES} service Echo {{ {' '.join(RPCS)} }}")


class Request(NamedTuple):
    """Request, and why the sidecar answers it in another way than Envoy does; empty if they agree."""

    method: str
    target: str
    body: bytes = b""
    differs: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.target} {self.body!r}"


def get(target: str, differs: str = "") -> Request:
    return Request("GET", target, b"", differs)


def post(target: str, body: Any, differs: str = "") -> Request:
    """Return a POST; what is not bytes is sent as JSON."""
    return Request("POST", target, body if isinstance(body, bytes) else json.dumps(body).encode(), differs)


WHOLE: Final = "1.0 is a whole number in the JSON mapping, also in a text"
BOOL: Final = "true and false are the only texts of a bool in the JSON mapping"
PLUS: Final = "a plus stands for a space in a query (WHATWG URL 5.1)"
TWICE: Final = "a field that is given twice is ambiguous: two readers may take two values"
IN_LIST: Final = "a parameter cannot say which message of a list it means"
BOUND: Final = "a field that the path binds is no parameter (google.api.http)"
SLASH: Final = "the template has no slash at the end"
METHOD: Final = "405 where the path is served under other methods (RFC 9110 15.5.6)"
TEXT: Final = "a bool in JSON is true or false, and no text"
UNKNOWN: Final = "an unknown name is refused with its place: it is mostly a misspelt one"
NO_JSON: Final = "the body is not JSON (RFC 8259)"
NULL: Final = "null is no value within a list or a map"
NO_LIST: Final = "a value is no list of one"
MASK: Final = "paths of a field mask are in lower camel case"

REQUESTS: Final = [
    # query parameters
    get("/v1/scalars"),
    get("/v1/scalars?anInt32=-5&an_int64=9007199254740993&aUint64=18446744073709551615&aBool=true&aString=a%20b"),
    get("/v1/scalars?aDouble=1.5e3&aFloat=0.1&aFixed64=7&aSint32=-1"),
    get("/v1/scalars?aDouble=NaN"),
    get("/v1/scalars?aDouble=-Infinity"),
    get("/v1/scalars?aColor=RED"),
    get("/v1/scalars?aColor=1"),
    get("/v1/scalars?aColor=PURPLE"),
    get("/v1/scalars?anInt32=x"),
    get("/v1/scalars?anInt32=2147483648"),
    get("/v1/scalars?anInt32=1.0", WHOLE),
    get("/v1/scalars?anInt32="),
    get("/v1/scalars?aUint32=-1"),
    get("/v1/scalars?aBool=yes", BOOL),
    get("/v1/scalars?aBool=1", BOOL),
    get("/v1/scalars?aString=a+b", PLUS),
    get("/v1/scalars?aString=%C3%A4"),
    get("/v1/scalars?aString="),
    get("/v1/scalars?aString"),
    get("/v1/scalars?aBytes=AQID"),
    get("/v1/scalars?aBytes=-_8"),
    get("/v1/scalars?maybeInt=0"),
    get("/v1/scalars?other-name=x"),
    get("/v1/scalars?named=x"),
    get("/v1/scalars?nothing=1"),
    get("/v1/scalars?anInt32=1&anInt32=2", TWICE),
    get("/v1/scalars?&anInt32=1&&"),
    get("/v1/lists?int32s=1&int32s=2&strings=a&strings=b"),
    get("/v1/lists?colors=RED&colors=DARK"),
    get("/v1/lists?inners.name=x", IN_LIST),
    get("/v1/choice?text=x"),
    get("/v1/choice?text=x&number=1"),
    get("/v1/choice?inner.name=x&inner.inner.count=2"),
    get("/v1/known?time=2026-11-30T01:02:03.5Z&span=-1.5s&mask=a,bC.d"),
    get("/v1/known?anInt64=7&aBool=true&aString=x&aBytes=AQ"),
    get("/v1/known?time=yesterday"),
    get("/v1/all?scalars.an_int32=1&choice.text=x&all.all.scalars.aBool=true"),
    get("/v1/all?scalars=1"),
    # paths
    get("/v1/names/x"),
    get("/v1/names/a%20b"),
    get("/v1/names/a%2Fb"),
    get("/v1/names/%C3%A4?count=5&inner.name=y"),
    get("/v1/names/x?name=y", BOUND),
    get("/v1/names/"),
    get("/v1/names/x/", SLASH),
    get("/v1/names"),
    get("/v1/nothing"),
    get("/v1/places/1/rooms/2/deep"),
    get("/v1/places/1/rooms/a%2Fb/deep"),
    get("/v1/places/1/rooms/deep"),
    get("/v1/tree/a/b/c"),
    get("/v1/tree/a%2Fb/c"),
    get("/v1/tree/"),
    Request("PUT", "/v1/names/x", b"{}", METHOD),
    Request("DELETE", "/v1/scalars", b"", METHOD),
    post("/v1/names/x:rename", {"count": 3}),
    post("/v1/names/x:y:rename", {}),
    post("/v1/names/x:other", {}),
    post("/v1/names/x", {"name": "inside", "count": 1}),
    post("/v1/names/x?count=4", {"name": "inside"}),
    # bodies
    post("/v1/scalars", b""),
    post("/v1/scalars", {}),
    post("/v1/scalars", {"anInt64": "9007199254740993", "aUint64": "18446744073709551615", "aFixed64": 1}),
    post("/v1/scalars", {"anInt64": 9007199254740991, "aDouble": 1e300, "aFloat": 1.5}),
    post("/v1/scalars", {"an_int64": "5", "a_string": "x"}),
    post("/v1/scalars", {"anInt32": 1.0}),
    post("/v1/scalars", {"anInt32": "7"}),
    post("/v1/scalars", {"anInt32": 1.5}),
    post("/v1/scalars", {"anInt32": 2147483648}),
    post("/v1/scalars", {"anInt64": "9223372036854775808"}),
    post("/v1/scalars", {"anInt32": "x"}),
    post("/v1/scalars", {"aUint32": -1}),
    post("/v1/scalars", {"aDouble": "NaN"}),
    post("/v1/scalars", {"aDouble": "Infinity", "aFloat": "-Infinity"}),
    post("/v1/scalars", {"aFloat": 1e39}),
    post("/v1/scalars", {"aBool": "true"}, TEXT),
    post("/v1/scalars", {"aBool": 1}),
    post("/v1/scalars", {"aString": 5}),
    post("/v1/scalars", {"aString": 'ä\u0000"\\/😈<>&\u2028'}),
    post("/v1/scalars", {"aBytes": "AQID"}),
    post("/v1/scalars", {"aBytes": "-_8"}),
    post("/v1/scalars", {"aBytes": "AQ=="}),
    post("/v1/scalars", {"aBytes": "%%%"}),
    post("/v1/scalars", {"aColor": "DARK"}),
    post("/v1/scalars", {"aColor": 1}),
    post("/v1/scalars", {"aColor": 99}),
    post("/v1/scalars", {"aColor": "PURPLE"}),
    post("/v1/scalars", {"anInt32": None, "aString": None, "aNull": None}),
    post("/v1/scalars", {"maybeInt": 0, "maybeString": "", "maybeColor": "NONE"}),
    post("/v1/scalars", {"other-name": "x"}),
    post("/v1/scalars", {"nothing": 1}, UNKNOWN),
    post("/v1/scalars", b'{"anInt32": 1, "anInt32": 2}', TWICE),
    post("/v1/scalars", b'{"anInt32": 1'),
    post("/v1/scalars", b'{"anInt32": 1}}'),
    post("/v1/scalars", b"[]"),
    post("/v1/scalars", b"5"),
    post("/v1/scalars", b"{anInt32: 1}", NO_JSON),
    post("/v1/scalars", b'{"anInt32": 1,}', NO_JSON),
    post("/v1/scalars", b"{'anInt32': 1}", NO_JSON),
    post("/v1/scalars", b'{"aString": "\xff"}'),
    post("/v1/scalars", b'{"aString": "\\ud800"}'),
    post("/v1/lists", {"int32s": [1, 2], "strings": ["", "a"], "bools": [], "colors": ["RED", 0], "doubles": [0.5]}),
    post("/v1/lists", {"int32s": None}),
    post("/v1/lists", {"int32s": [None]}, NULL),
    post("/v1/lists", {"int32s": 1}, NO_LIST),
    post("/v1/lists", {"inners": [{"name": "x"}, {}]}),
    post("/v1/lists", {"octets": ["AQ==", ""], "int64s": ["1", 2]}),
    post("/v1/maps", {"texts": {"a": "b", "": ""}, "numbers": {"-1": "5"}, "colors": {"true": "RED"}}),
    post("/v1/maps", {"inners": {"x": {"count": 1}}, "doubles": {"7": 0.5}, "octets": {"1": "AQ=="}}),
    post("/v1/maps", {"values": {"a": None, "b": [1, {"c": True}]}, "times": {"t": "2026-01-01T00:00:00Z"}}),
    post("/v1/maps", {"texts": {"a": None}}, NULL),
    post("/v1/maps", {"numbers": {"x": 1}}),
    post("/v1/choice", {"text": ""}),
    post("/v1/choice", {"number": 0, "yes": False}),
    post("/v1/choice", {"nil": None}),
    post("/v1/choice", {"value": None}),
    post("/v1/choice", {"text": "a", "number": 1}),
    post("/v1/choice", {"text": None, "number": 1}),
    post("/v1/known", {"time": "2026-11-30T01:02:03Z"}),
    post("/v1/known", {"time": "2026-11-30T01:02:03.123456789+01:00"}),
    post("/v1/known", {"time": "1969-12-31T23:59:59.5Z"}),
    post("/v1/known", {"time": "0001-01-01T00:00:00Z"}),
    post("/v1/known", {"time": "2026-13-01T00:00:00Z"}),
    post("/v1/known", {"time": "2026-11-30 01:02:03Z"}),
    post("/v1/known", {"span": "1.000340012s"}),
    post("/v1/known", {"span": "-0.5s"}),
    post("/v1/known", {"span": "3"}),
    post("/v1/known", {"span": "315576000001s"}),
    post("/v1/known", {"mask": "a,bC.dE"}),
    post("/v1/known", {"mask": ""}),
    post("/v1/known", {"mask": "a_b"}, MASK),
    post("/v1/known", {"struct": {"a": [1, "x", None, {"b": False}]}}),
    post("/v1/known", {"struct": {}, "list": [], "value": {}}),
    post("/v1/known", {"value": None, "list": [None]}),
    post("/v1/known", {"empty": {}}),
    post("/v1/known", {"empty": {"a": 1}}, UNKNOWN),
    post("/v1/known", {"any": {"@type": "type.googleapis.com/test.Inner", "name": "x", "count": 2}}),
    post("/v1/known", {"any": {"count": 2, "@type": "type.googleapis.com/test.Inner"}}),
    post("/v1/known", {"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1.5s"}}),
    post("/v1/known", {"any": {"@type": "type.googleapis.com/test.Nothing"}}),
    post("/v1/known", {"any": {"name": "x"}}),
    post("/v1/known", {"anInt64": "0", "aBool": False, "aString": "", "aDouble": 0}),
    post("/v1/known", {"anInt64": None, "aBool": None}),
    post("/v1/known", {"aUint64": 5}),
    post("/v1/known", {"aBytes": "AQ==", "aFloat": "NaN", "anInt32": "5"}),
    post("/v1/known", {"times": ["2026-01-01T00:00:00Z"], "int64s": ["5", 6], "values": [1, None, "x"]}),
    post("/v1/all", {"scalars": {"anInt32": 1}, "all": {"all": {"choice": {"text": "x"}}}}),
    post("/v1/all", b'{"all":' * 40 + b"{}" + b"}" * 40),
    # answers
    *[get(f"/v1/fail/{code}/why") for code in range(1, 17)],
    get("/v1/fail/99/why"),
    get("/v1/stream/0/x"),
    get("/v1/stream/3/x"),
    get("/v1/stream/5/fail"),
]
