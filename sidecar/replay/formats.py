"""Formats of access logs: JSON lines of the sidecar, `combined` of nginx with times, default text and JSON of Envoy.

Rules:

1. The time of a line of the sidecar and of nginx is the end of the request, nginx's in whole seconds without `$msec`;
   that of Envoy is its start.
2. A log without durations of the upstream cannot be replayed: such lines are unreadable, and the message says which
   variable to add to the format.
3. The starts of attempts are not logged.  The first starts with the request, the last ends with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import chain
from typing import IO, Any, Final
from urllib.parse import urlsplit

from sidecar.replay.record import LONGEST_LINE, MOST_REQUESTS, Line, Record, Request, Try, Unreadable, read

BEFORE_UPSTREAM: Final = frozenset(("authenticate", "authorize", "cors"))
"""Policies whose refusals are not replayed, because the log has no credentials and no header fields."""
MOST_LISTED: Final = 20
"""Most times of upstreams in one line of nginx that are read."""
TEXT: Final = re.compile(
    r'(?P<client>\S+) \S+ \S+ \[(?P<time>[^\]]+)\] "(?P<request>[^"]*)" (?P<status>\d{3}) (?P<bytes>\d+|-)'
    r'(?: "(?P<referrer>[^"]*)" "(?P<agent>[^"]*)")?(?P<rest>.*)'
)
"""Formats `common` and `combined` of nginx, with more variables behind."""
ENVOY: Final = re.compile(r'\[(?P<time>[^\]]+)\] "(?P<request>[^"]*)" (?P<status>\d+) (?P<flags>\S+) (?P<rest>.*)')
"""Default text format of Envoy, up to its response flags."""
NAMED: Final = re.compile(r'(\w+)[=:]("[^"]*"|[^\s",]+(?:(?:,| :) [^\s",]+)*)')
"""Variable of nginx behind the combined format, such as `urt=0.012`."""
NGINX_NAMES: Final = {
    "rt": "request_time", "request_time": "request_time",
    "urt": "upstream_response_time", "upstream_response_time": "upstream_response_time",
    "us": "upstream_status", "ust": "upstream_status", "upstream_status": "upstream_status",
    "ua": "upstream_addr", "upstream_addr": "upstream_addr", "upstream": "upstream_addr",
    "host": "host", "http_host": "host", "cs": "upstream_cache_status", "msec": "msec",
}  # fmt: skip
"""Variables of nginx by the names that formats commonly give them."""
FLAGS: Final = {
    "UF": "connect_failure", "URX": "", "UT": "timeout", "UC": "reset", "UR": "reset", "UPE": "protocol_error",
    "SI": "timeout", "LR": "reset", "DC": "client_closed",
}  # fmt: skip
"""Failure of an attempt by Envoy's response flags."""
GATEWAY_FLAGS: Final = frozenset(("UO", "RL", "UH", "NR", "FI", "RLSE", "UAEX", "NC", "OM", "DPE", "IH"))
"""Envoy's response flags of requests that no upstream got."""
NO_CREDENTIALS: Final = "refused for missing or wrong credentials, origins or rights"


def detect(line: bytes) -> str:
    """Return the name of the format of a line: `sidecar`, `nginx`, `envoy` or `envoy_json`."""
    text = line.lstrip()
    if text.startswith(b"{"):
        try:
            members = json.loads(text)
        except ValueError:
            return "sidecar"
        return "envoy_json" if isinstance(members, dict) and "start_time" in members else "sidecar"
    return "envoy" if text.startswith(b"[") else "nginx"


def parser(name: str) -> Callable[[bytes], Line]:
    """Return the function that reads the lines of a format."""
    return {"sidecar": read_sidecar, "nginx": read_nginx, "envoy": read_envoy, "envoy_json": read_envoy_json}[name]


FORMATS: Final = ("sidecar", "nginx", "envoy", "envoy_json")


def read_log(path: str, form: str | None = None, most: int = MOST_REQUESTS) -> Record:
    """Return the record of the log at a path; its first line tells the format if `form` is None.

    Raises `OSError`.
    """
    with open(path, "rb") as file:
        lines = bounded_lines(file)
        first = next(lines, b"")
        return read(chain([first], lines), parser(form or detect(first)), most, path)


def bounded_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file; one that is longer than `LONGEST_LINE` is cut just behind this length."""
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
        yield line


def _members(line: bytes) -> dict[str, Any]:
    """Return the members of a line of JSON."""
    try:
        found = json.loads(line)
    except ValueError as error:
        raise Unreadable(f"is not JSON: {error}; write one object a line") from None
    if not isinstance(found, dict):
        raise Unreadable("is not a JSON object; write one object a line")
    return found


def _unix(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        raise Unreadable(f"time: `{text}` is not a time; write one such as 2026-01-31T12:00:00.000Z") from None


def _number(members: dict[str, Any], name: str) -> float:
    value = members.get(name)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e12:
        raise Unreadable(f"{name}: is not a number of zero or more; the log needs it")
    return float(value)


# ----- sidecar


def read_sidecar(line: bytes) -> Line:
    """Return a line of the sidecar's own access log (`telemetry.access_log`)."""
    found = _members(line)
    if "time" not in found or "duration_ms" not in found:
        raise Unreadable("lacks `time` or `duration_ms`; is it an access log of the sidecar with `format: json`?")
    seconds = _number(found, "duration_ms") / 1000
    ended = _unix(found["time"])
    status = int(_number(found, "status"))
    reason = str(found.get("reason", ""))
    route = str(found.get("route", ""))
    arrived = ended - seconds
    request = Request(
        arrived, str(found.get("method", "GET")), str(found.get("host", "")), str(found.get("path", "/")),
        str(found.get("client", "")), str(found.get("caller", "")), route, status, reason, seconds,
    )  # fmt: skip
    attempts = found.get("attempts", [])
    if not isinstance(attempts, list) or not all(isinstance(each, dict) for each in attempts):
        raise Unreadable("attempts: is not a list of objects; is the line complete?")
    return Line(request, _tries(attempts, arrived, ended), _skip(found, status), int(found.get("suppressed", 0)))


def _skip(found: dict[str, Any], status: int) -> str:
    """Return the reason for which a request is not replayed; empty for one that is."""
    if found.get("refused_by") in BEFORE_UPSTREAM or status in (401, 403):
        return NO_CREDENTIALS
    if "grpc_status" in found:
        return "calls of gRPC"
    if "parts" in found:
        return "aggregated answers"
    if status == 101:
        return "WebSocket sessions"
    if not found.get("route"):
        return "without a route"
    return ""


def _tries(attempts: list[dict[str, Any]], arrived: float, ended: float) -> tuple[Try, ...]:
    """Return the attempts of a request, with their estimated starts."""
    tries = []
    at = arrived
    last = len(attempts) - 1
    for index, each in enumerate(attempts):
        seconds = _number(each, "duration_ms") / 1000
        if index and str(each.get("why", "")) == "hedge":
            at = max(arrived, ended - seconds)
        elif index == last and index:
            at = max(at, ended - seconds)
        status = int(_number(each, "status"))
        reason = str(each.get("reason", "")) or ("" if status else "client_closed")
        tries.append(Try(str(each.get("endpoint", "")), at, seconds, status, reason, index > 0))
        at += seconds
    return tuple(tries)


# ----- nginx


def read_nginx(line: bytes) -> Line:
    """Return a line of nginx in the format `combined` with `rt=$request_time` and `urt=$upstream_response_time`."""
    text = line.decode("utf-8", "replace").strip()
    match = TEXT.fullmatch(text)
    if match is None:
        raise Unreadable("is not in the format `combined`; write `--format` for another")
    found = {NGINX_NAMES[key]: value.strip('"') for key, value in NAMED.findall(match["rest"]) if key in NGINX_NAMES}
    if "request_time" not in found and (bare := re.fullmatch(r" (\d+\.\d+)(?: (\S.*))?", match["rest"])):
        found["request_time"] = bare[1]
        if bare[2]:
            found.setdefault("upstream_response_time", bare[2].strip('"'))
    if "request_time" not in found:
        raise Unreadable("has no time of the request; add `rt=$request_time urt=$upstream_response_time` to log_format")
    try:
        ended = datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z").timestamp()
    except ValueError:
        raise Unreadable(f"time: `{match['time']}` is not $time_local; write it as nginx does") from None
    if "msec" in found:
        ended = _number(found, "msec")
    seconds = _number(found, "request_time")
    method, path = _request_line(match["request"])
    status = int(match["status"])
    arrived = ended - seconds
    waited = [each.strip() for each in re.split(r"[,:] ", found.get("upstream_response_time", found["request_time"]))]
    statuses = [each.strip() for each in re.split(r"[,:] ", found.get("upstream_status", str(status)))]
    addresses = [each.strip() for each in re.split(r", | : ", found.get("upstream_addr", ""))]
    attempts = []
    for index, each in enumerate(waited[:MOST_LISTED]):
        if each == "-":
            continue
        code = statuses[min(index, len(statuses) - 1)]
        number = int(code) if code.isdigit() else 0
        address = addresses[min(index, len(addresses) - 1)]
        reason = "client_closed" if number == 499 else "timeout" if number == 504 else "reset" if number == 502 else ""
        attempts.append(
            {
                "endpoint": f"http://{address}" if address and address != "-" else "",
                "status": 0 if reason else number,
                "reason": reason,
                "duration_ms": _number({"upstream_response_time": each}, "upstream_response_time") * 1000,
            }
        )
    request = Request(
        arrived, method, found.get("host", ""), path, match["client"], "", "", status,
        "client_closed" if status == 499 else "", seconds,
    )  # fmt: skip
    return Line(request, _tries(attempts, arrived, ended), _skip_foreign(status), has_whole_seconds="msec" not in found)


def _request_line(text: str) -> tuple[str, str]:
    """Return method and path of a request line."""
    words = text.split(" ")
    if len(words) < 2 or not words[0].isalpha():
        raise Unreadable(f"request: `{text[:80]}` has no method and target; write them as in `GET /path HTTP/1.1`")
    return words[0], urlsplit(words[1]).path or "/"


def _skip_foreign(status: int) -> str:
    """Return the reason for which a request from another proxy's log is not replayed; empty for one that is."""
    if status in (401, 403):
        return NO_CREDENTIALS
    return "WebSocket sessions" if status == 101 else "invalid requests" if status in (0, 400) else ""


# ----- Envoy


def read_envoy(line: bytes) -> Line:
    """Return a line of Envoy in its default text format."""
    text = line.decode("utf-8", "replace").strip()
    match = ENVOY.fullmatch(text)
    if match is None:
        raise Unreadable("is not in Envoy's default format; write `--format` for another")
    numbers = re.search(r" (\d+) (\d+) (\d+) (\d+|-) (?=\"|-)", f" {match['rest']} ")
    if numbers is None:
        raise Unreadable("lacks bytes, DURATION and X-ENVOY-UPSTREAM-SERVICE-TIME; write Envoy's default format")
    duration, service = numbers[3], numbers[4]
    quoted = re.findall(r'"([^"]*)"', numbers.string[numbers.end() :])
    names = quoted[3:5] if len(quoted) >= 5 else ["", ""]
    return _of_envoy(
        {
            "start_time": match["time"], "request": match["request"], "response_code": match["status"],
            "response_flags": match["flags"], "duration": duration,
            "upstream_service_time": None if service == "-" else service,
            "authority": names[0], "upstream_host": names[1],
        }
    )  # fmt: skip


def read_envoy_json(line: bytes) -> Line:
    """Return a line of Envoy as JSON, with the common names of members (those of Istio)."""
    found = _members(line)
    if "method" not in found:
        raise Unreadable("lacks `method`; add it to json_format as %REQ(:METHOD)%")
    path = found.get("path") or "/"
    found["request"] = f"{found['method']} {path} {found.get('protocol', 'HTTP/1.1')}"
    return _of_envoy(found)


def _of_envoy(found: dict[str, Any]) -> Line:
    """Return a line from its members in Envoy's words."""
    arrived = _unix(str(found.get("start_time", "")))
    seconds = _number(found, "duration") / 1000
    status = int(_number(found, "response_code"))
    method, path = _request_line(str(found["request"]))
    flags = set(re.split("[,|]", str(found.get("response_flags") or "-")))
    reason = next((FLAGS[each] for each in sorted(flags) if FLAGS.get(each)), "")
    service = found.get("upstream_service_time")
    attempts = []
    if not flags & GATEWAY_FLAGS:
        # Without an answer of the upstream there is only the duration of the whole request.
        ms = _number({"upstream_service_time": service}, "upstream_service_time") if service else seconds * 1000
        host = str(found.get("upstream_host") or "")
        attempts = [
            {
                "endpoint": f"http://{host}" if host not in ("", "-") else "",
                "status": 0 if reason else status,
                "reason": reason,
                "duration_ms": ms,
            }
        ]
    authority = str(found.get("authority") or "")
    client = str(found.get("downstream_remote_address") or "").rpartition(":")[0]
    grpc = found.get("grpc_status") not in (None, "-", "")
    request = Request(
        arrived, method, "" if authority == "-" else authority, path, client, "", "", status, reason, seconds
    )
    skip = "calls of gRPC" if grpc else _skip_foreign(status) if attempts else ""
    return Line(request, _tries(attempts, arrived, arrived + seconds), skip)
