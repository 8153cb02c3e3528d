"""Model as a screen: what is wrong first, then traffic, breakers, endpoints, limits, refusals.

A table is cut to the rows of the terminal, and what is wrong stands at its beginning.
"""

from __future__ import annotations

from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sidecar.top.stream import Model, Sum
from sidecar.top.words import bar, duration, percent, plain, sparkline

SPAN: Final = 60
"""Seconds of traffic in the table of routes."""
TONES: Final = {"closed": "green", "half_open": "yellow", "open": "bold red"}
WEIGHT: Final = {"open": 0, "half_open": 1, "closed": 2}
"""Order of breakers by state."""


def screen(model: Model, rows: int = 60) -> RenderableType:
    """Return the whole screen, of about `rows` lines at most."""
    tables = [refusals(model), limits(model), endpoints(model)]
    return Group(header(model), routes(model, max(5, rows // 3)), breakers(model, max(5, rows // 4)), *tables)


def header(model: Model) -> RenderableType:
    """Return the line about the process, and the problems of rejected policies."""
    about, policies = model.parts.get("about", {}), model.parts.get("policies", {})
    ready = about.get("ready")
    line = Text.assemble(
        (plain(policies.get("service") or "sidecar"), "bold"), "  ",
        ("ready", "green") if ready else (plain(f"not ready: {about.get('not_ready_because')}"), "bold red"),
        f"  up {duration(about.get('uptime_seconds'))}  policies {policies.get('digest', '–')}  ",
        (sparkline(model.rates(40)), "blue"),
    )  # fmt: skip
    last = (model.parts.get("reloads") or [{}])[-1]
    if last.get("result") != "rejected":
        return line
    problems = last.get("problems") or ["?"]
    text = f"the policies on disk are not in force: {plain(problems[0])}"
    return Group(line, Text(text + (f" (and {len(problems) - 1} more)" if problems[1:] else ""), "bold red"))


def routes(model: Model, most: int) -> RenderableType:
    """Return the table of at most `most` routes, those with most errors first."""
    recent = model.recent(SPAN)
    seconds = max(1, min(SPAN, len(model.seconds)))
    names = list(dict.fromkeys([*recent, *model.parts.get("routes", {})]))
    names.sort(key=lambda name: -(recent[name].errors if name in recent else 0))
    table = _table("Route", "Upstream", ">Requests/s", ">Errors", ">Fallback", ">p50", ">p90", ">p99")
    for name in names[:most]:
        each = recent.get(name) or Sum(model.bounds)
        share = each.errors / each.calls if each.calls else None
        tone = "" if not share else "bold red" if share >= 0.05 else "yellow"
        upstream = model.parts.get("routes", {}).get(name, {}).get("upstream", "")
        latencies = [duration(each.percentile(share)) for share in (0.5, 0.9, 0.99)]
        cells = [plain(name or "(no route)"), plain(upstream), f"{each.calls / seconds:,.1f}"]
        fallback = percent(each.fallbacks / (each.calls or 1)) if each.fallbacks else ""
        table.add_row(*cells, Text(percent(share), tone), Text(fallback, "yellow"), *latencies)
    return table


def breakers(model: Model, most: int) -> RenderableType:
    """Return the table of at most `most` breakers, open ones first."""
    table = _table("Breaker", "State", "Why", ">Next probe", ">Refused")
    known = [each for each in _things(model, "breaker") if each.get("state") in WEIGHT]
    known.sort(key=lambda each: WEIGHT[each["state"]])
    for each in known[:most]:
        state = each["state"].replace("_", "-") + (", held" if each.get("forced") else "")
        probe = duration(each["next_probe_in"]) if each.get("next_probe_in") is not None else ""
        cells = (plain(each["name"]), Text(state, TONES[each["state"]]), plain(each.get("why", "")), probe)
        table.add_row(*cells, f"{each.get('refused', 0):,}")
    return table


def endpoints(model: Model) -> RenderableType:
    """Return the table of endpoints, those that are down first."""
    table = _table("Upstream", "Endpoint", "State", ">In flight", ">Failures")
    known = [each | {"upstream": set_["name"]} for set_ in _things(model, "endpoints") for each in set_["endpoints"]]
    known.sort(key=lambda each: each["state"] == "up")
    for each in known[:12]:
        state = each["state"] + (f", {duration(each['ejected_for'])}" if each.get("ejected_for") else "")
        tone = "green" if each["state"] == "up" else "bold red"
        cells = (plain(each["upstream"]), plain(each["url"]), Text(state, tone))
        table.add_row(*cells, str(each["in_flight"]), str(each["consecutive_failures"]))
    return table


def limits(model: Model) -> RenderableType:
    """Return the table of concurrency limits and retry budgets."""
    table = _table("Limit", "", ">Used", ">Waiting")
    for each in _things(model, "concurrency")[:8]:
        share = each["active"] / (each["limit"] or 1)
        waiting = sum(each.get("waiting", {}).values())
        tone = "bold red" if share >= 1 else "yellow" if share >= 0.8 else "blue"
        table.add_row(plain(each["name"]), Text(bar(share), tone), f"{each['active']} of {each['limit']}", str(waiting))
    for each in _things(model, "retry_budget")[:8]:
        full = max(each["floor"], each["floor"] + each["ratio"] * each["first_attempts"]) or 1
        tone = "bold red" if each["tokens"] < 1 else "blue"
        name = f"retries of {plain(each['name'])}"
        table.add_row(name, Text(bar(each["tokens"] / full), tone), f"{each['tokens']:.1f} left", "")
    return table


def refusals(model: Model) -> RenderableType:
    """Return the table of the latest refusals."""
    table = _table("Refused", ">Times", "Route", "Reason", "What happened", "Says who")
    for each in (model.parts.get("refusals") or [])[:8]:
        ago = max(0.0, model.now - each["at"])
        who = f"{each['policy']} {'/'.join(each['where'].split('/')[-2:])}".strip()
        when = "now" if ago < 1.5 else f"{duration(round(ago))} ago"
        cells = (when, f"{each['count']:,}", plain(each["route"] or "(no route)"), plain(each["reason"]))
        table.add_row(*cells, plain(each["detail"]), plain(who), style="" if ago < SPAN else "dim")
    return table


def _things(model: Model, kind: str) -> list[dict[str, Any]]:
    return [{**facts, "name": name} for name, facts in model.parts.get(f"state.{kind}", {}).items()]


def _table(*titles: str) -> Table:
    """Return an empty table; a title that begins with `>` is of numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    for title in titles:
        table.add_column(title.removeprefix(">"), justify="right" if title.startswith(">") else "left", overflow="fold")
    return table
