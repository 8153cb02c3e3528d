"""Screen of `sidecar top`: a header, then tables of routes, breakers, endpoints, limits and refusals.

Rate limits and quotas have a table if there are any.

The tables share the rows of the terminal.  Each begins with its problems, and a shortened table says how many rows are
left out.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sidecar.top.stream import Model, Sum
from sidecar.top.words import bar, duration, percent, plain, sparkline

HEADER_ROWS: Final = 2
"""Rows of the terminal that the header takes."""
SPAN: Final = 60
"""Seconds of traffic in the table of routes."""
TONES: Final = {"closed": "green", "half_open": "yellow", "open": "bold red"}
SHARED_BY: Final = {"process": "in each process", "workers": "in all workers"}
"""Processes that share a count, in words."""
WEIGHT: Final = {"open": 0, "half_open": 1, "closed": 2}
"""Order of breakers by state."""


def screen(model: Model, rows: int | None = None) -> RenderableType:
    """Return the screen, shortened to `rows` rows of a terminal (None: not shortened).

    In a shortened screen no row takes two lines.
    """
    tables = [make(model) for make in (routes, breakers, endpoints, limits, rates, refusals)]
    tables = [table for table in tables if table.rows or not table.is_optional]
    if rows is None:
        return Group(header(model), *(table.render(len(table.rows)) for table in tables))
    shown = divide([len(table.rows) for table in tables], rows - HEADER_ROWS - len(tables))
    return Group(
        header(model, is_cut=True),
        *(table.render(count, is_cut=True) for table, count in zip(tables, shown, strict=True)),
    )


def divide(wanted: list[int], rows: int) -> list[int]:
    """Return the number of rows for each table: `rows` divided evenly, but to none more than it wants."""
    given = [0] * len(wanted)
    while rows > 0 and given != wanted:
        for index, want in enumerate(wanted):
            if rows > 0 and given[index] < want:
                given[index] += 1
                rows -= 1
    return given


class Rows:
    """Titles and rows of a table that is not drawn yet; a title with a leading `>` belongs to a column of numbers."""

    def __init__(self, *titles: str, is_optional: bool = False) -> None:
        """`is_optional`: True if the table is left out while it has no rows."""
        self.titles = titles
        self.is_optional = is_optional
        self.rows: list[tuple[RenderableType, ...]] = []
        self.styles: list[str] = []

    def add(self, *cells: RenderableType, style: str = "") -> None:
        """Add a row."""
        self.rows.append(cells)
        self.styles.append(style)

    def render(self, most: int, *, is_cut: bool = False) -> RenderableType:
        """Return the table with at most `most` rows; if rows are left out, the last row says how many."""
        table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        for title in self.titles:
            justify: Literal["left", "right"] = "right" if title.startswith(">") else "left"
            overflow: Literal["ellipsis", "fold"] = "ellipsis" if is_cut else "fold"
            table.add_column(title.removeprefix(">"), justify=justify, overflow=overflow, no_wrap=is_cut)
        kept = len(self.rows) if most >= len(self.rows) else max(0, most - 1)
        for cells, style in zip(self.rows[:kept], self.styles, strict=False):
            table.add_row(*cells, style=style)
        if kept == len(self.rows):
            return table
        more = Text(f"… and {len(self.rows) - kept} more", "yellow", no_wrap=True)
        return Group(table, more) if most else Group(more)


def header(model: Model, *, is_cut: bool = False) -> RenderableType:
    """Return the line about the process, and the first problem of rejected policies, with `is_cut` on one line each."""
    about, policies = model.parts.get("about", {}), model.parts.get("policies", {})
    ready = about.get("ready")
    line = Text.assemble(
        (plain(policies.get("service") or "sidecar"), "bold"), "  ",
        ("ready", "green") if ready else (plain(f"not ready: {about.get('not_ready_because')}"), "bold red"),
        f"  up {duration(about.get('uptime_seconds'))}  policies {policies.get('digest', '–')}  ",
        ("q quits  " if is_cut else "", "dim"),
        (sparkline(model.rates(40)), "blue"),
        no_wrap=is_cut, overflow="ellipsis",
    )  # fmt: skip
    last = (model.parts.get("reloads") or [{}])[-1]
    if last.get("result") != "rejected":
        return line
    problems = last.get("problems") or ["?"]
    text = f"the policies on disk are not in force: {plain(problems[0])}"
    more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
    return Group(line, Text(text + more, "bold red", no_wrap=is_cut, overflow="ellipsis"))


def routes(model: Model) -> Rows:
    """Return the table of routes, sorted by errors, then by requests."""
    recent = model.recent(SPAN)
    seconds = max(1, min(SPAN, len(model.seconds)))
    names = list(dict.fromkeys([*recent, *model.parts.get("routes", {})]))
    none = Sum(model.bounds)
    names.sort(key=lambda name: (-recent.get(name, none).errors, -recent.get(name, none).calls))
    table = Rows("Route", "Upstream", ">Requests/s", ">Errors", ">Fallback", ">p50", ">p90", ">p99")
    for name in names:
        each = recent.get(name, none)
        share = each.errors / each.calls if each.calls else None
        tone = "" if not share else "bold red" if share >= 0.05 else "yellow"
        route = model.parts.get("routes", {}).get(name, {})
        upstream = route.get("upstream", "") or " + ".join(route.get("parts", {}))
        latencies = [duration(each.percentile(share)) for share in (0.5, 0.9, 0.99)]
        cells = [plain(name or "(no route)"), plain(upstream), f"{each.calls / seconds:,.1f}"]
        fallback = percent(each.fallbacks / (each.calls or 1)) if each.fallbacks else ""
        table.add(*cells, Text(percent(share), tone), Text(fallback, "yellow"), *latencies)
    return table


def breakers(model: Model) -> Rows:
    """Return the table of breakers, open ones first."""
    table = Rows("Breaker", "State", "Why", ">Next probe", ">Refused")
    known = [each for each in _states(model, "breaker") if each.get("state") in WEIGHT]
    known.sort(key=lambda each: WEIGHT[each["state"]])
    for each in known:
        state = each["state"].replace("_", "-") + (", forced" if each.get("forced") else "")
        state += ", observed" if each.get("observed") else ""
        probe = duration(each["next_probe_in"]) if each.get("next_probe_in") is not None else ""
        cells = (plain(each["name"]), Text(state, TONES[each["state"]]), plain(each.get("why", "")), probe)
        table.add(*cells, f"{each.get('refused', 0):,}")
    return table


def endpoints(model: Model) -> Rows:
    """Return the table of endpoints, those that are not up first."""
    table = Rows("Upstream", "Endpoint", "State", ">In flight", ">Failures", ">Connections")
    pools = {url: pool for each in _states(model, "pools") for url, pool in each.get("pools", {}).items()}
    known = [each | {"upstream": set_["name"]} for set_ in _states(model, "endpoints") for each in set_["endpoints"]]
    known.sort(key=lambda each: each["state"] == "up")
    for each in known:
        state = each["state"] + (f", {duration(each['ejected_for'])}" if each.get("ejected_for") else "")
        tone = "green" if each["state"] == "up" else "bold red"
        cells = (plain(each["upstream"]), plain(each["url"]), Text(state, tone))
        numbers = (str(each["in_flight"]), str(each["consecutive_failures"]))
        table.add(*cells, *numbers, _connections(pools.get(each["url"])))
    return table


def _connections(pool: dict[str, Any] | None) -> str:
    """Return the number of open connections of a pool, over HTTP/2 with their streams and how many they take."""
    if pool is None:
        return "0"
    streams = pool.get("streams")
    if streams is None:
        return f"{pool['open']}"
    most = f" of {pool['max_streams']}" if pool.get("max_streams") else ""
    return f"{pool['open']}, {streams}{most} stream{'s' if most or streams != 1 else ''}"


def limits(model: Model) -> Rows:
    """Return the table of concurrency limits and retry budgets."""
    table = Rows("Limit", "", ">Used", ">Waiting")
    for each in _states(model, "concurrency"):
        share = each["active"] / (each["limit"] or 1)
        waiting = sum(each.get("waiting", {}).values())
        tone = "bold red" if share >= 1 else "yellow" if share >= 0.8 else "blue"
        table.add(plain(each["name"]), Text(bar(share), tone), f"{each['active']} of {each['limit']}", str(waiting))
    for each in _states(model, "retry_budget"):
        full = max(each["floor"], each["floor"] + each["ratio"] * each["first_attempts"]) or 1
        tone = "bold red" if each["tokens"] < 1 else "blue"
        name = f"retries of {plain(each['name'])}"
        table.add(name, Text(bar(each["tokens"] / full), tone), f"{each['tokens']:.1f} left", "")
    return table


def rates(model: Model) -> Rows:
    """Return the table of rate limits and quotas, those whose store is away first."""
    table = Rows("Rate limit or quota", "At most", "Counted", ">Keys", ">Refused", is_optional=True)
    known = [*_states(model, "rate_limit"), *_states(model, "quota")]
    known.sort(key=lambda each: each.get("store_up") is not False)
    for each in known:
        place = SHARED_BY.get(each["shared_by"]) or f"in store {plain(each['store'])}"
        is_away = each.get("store_up") is False
        counted = Text(place + (", which is away" if is_away else ""), "bold red" if is_away else "")
        keys = Text(f"{each['keys']:,} of {each['max_keys']:,}", "yellow" if each["keys"] >= each["max_keys"] else "")
        over = f"{each['observed']:,} observed" if each["mode"] == "observe" else f"{each['refused']:,}"
        delayed = f", {each['delayed']:,} delayed" if each.get("delayed") else ""
        name = each["name"].rpartition(":in ")[0] or each["name"]
        table.add(plain(name), plain(each.get("limit") or each["quota"]), counted, keys, over + delayed)
    return table


def refusals(model: Model) -> Rows:
    """Return the table of the latest refusals."""
    table = Rows("Refused", ">Times", "Route", "Reason", "What happened", "Policy")
    for each in model.parts.get("refusals") or []:
        ago = max(0.0, model.now - each["at"])
        who = f"{each['policy']} {'/'.join(each['where'].split('/')[-2:])}".strip()
        when = "now" if ago < 1.5 else f"{duration(round(ago))} ago"
        cells = (when, f"{each['count']:,}", plain(each["route"] or "(no route)"), plain(each["reason"]))
        table.add(*cells, plain(each["detail"]), plain(who), style="" if ago < SPAN else "dim")
    return table


def _states(model: Model, kind: str) -> list[dict[str, Any]]:
    """Return the descriptions of all state objects of a kind, each with its name."""
    return [{**facts, "name": name} for name, facts in model.parts.get(f"state.{kind}", {}).items()]
