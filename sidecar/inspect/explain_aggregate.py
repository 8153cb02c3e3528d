"""Plan of a route with `aggregate`: its parts in the order in which they run, and the worst case of one request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sidecar.config.checks.aggregations import worst_of
from sidecar.config.spec import AGGREGATE
from sidecar.control.compiler import Snapshot
from sidecar.control.route import Route
from sidecar.core.exchange import NEVER
from sidecar.inspect.documents import PartEntry, PlanEntry, masked, place_of

if TYPE_CHECKING:
    from sidecar.stages.aggregate.spec import PartSpec, Spec


def plan_of(snapshot: Snapshot, route: Route) -> PlanEntry | None:
    """Return the plan of a route, masked; None without `aggregate`."""
    block: Spec | None = route.spec.blocks.get(AGGREGATE)  # type: ignore[assignment]
    if block is None:
        return None
    from sidecar.stages.aggregate.plan import levels, needs_of

    routes = {each.name: each for each in snapshot.spec.routes}
    worst, masks = worst_of(route.spec, routes), snapshot.spec.masks
    parts: list[PartEntry] = []
    for number, names in enumerate(levels(block), 1):
        for name in names:
            part, target = block.parts[name], snapshot.routes[route.spec.parts[name]]
            parts.append(
                {
                    "name": name,
                    "level": number,
                    "method": part.method,
                    "path": masks.text(part.path),
                    "route": masks.text(target.name),
                    "upstream": masks.text(target.upstream) or None,
                    "policies": [link.policy for link in target.chain],
                    "needs": list(needs_of(part)),
                    "each": None if part.each is None else masks.text(part.each.of),
                    "timeout": part.timeout,
                    "is_required": part.required,
                    "otherwise": [] if part.required else [masked(each, masks) for each in _substitutes(part)],
                    "streams": part.stream,
                    "place": place_of(route.spec.where(AGGREGATE, "parts", name)),
                }
            )
    return {
        "parts": parts,
        "answer": block.answer if isinstance(block.answer, str) else "template",
        "seconds": None if worst.seconds == NEVER else worst.seconds,
        "requests": worst.requests,
        "calls": worst.calls,
    }


def _substitutes(part: PartSpec) -> list[Any]:
    return ["stale" if each.stale else {"json": each.json_} for each in part.otherwise]


def plan_lines(plan: PlanEntry) -> list[tuple[str, str, str]]:
    """Return the plan as rows: level and name, request, and what becomes of the answer of other parts without it."""
    rows: list[tuple[str, str, str]] = []
    level = 0
    for part in plan["parts"]:
        first = f"{part['level']}." if part["level"] != level else "  "
        level = part["level"]
        to = part["upstream"] or "its own parts"
        rows.append(
            (f"{first} {part['name']}", f"{part['method']} {part['path']} > {part['route']} > {to}", _words(part))
        )
    return rows


def _words(part: PartEntry) -> str:
    words = [f"for each of {part['each']}"] if part["each"] else []
    if part["needs"]:
        words.append(f"after {', '.join(part['needs'])}")
    if part["timeout"] is not None:
        words.append(f"within {part['timeout']:g}s")
    if part["streams"]:
        words.append("streams")
    words.append("required" if part["is_required"] else f"otherwise {_otherwise(part['otherwise'])}")
    return ", ".join(words)


def _otherwise(substitutes: Sequence[Any]) -> str:
    texts = [each if isinstance(each, str) else json.dumps(each["json"]) for each in substitutes]
    return ", then ".join(texts if "stale" not in texts[-1:] and texts else [*texts, "null"])


def plan_sentence(plan: PlanEntry) -> str:
    """Return the worst case of one request as a sentence."""
    time = "without a limit of time" if plan["seconds"] is None else f"in {plan['seconds']:g}s"
    most = f"at most {plan['requests']} requests of parts, {plan['calls']} calls with retries and hedges, {time}"
    return f"{most}; the answer is {_form(plan)}"


def _form(plan: PlanEntry) -> str:
    return "made by a template" if plan["answer"] == "template" else plan["answer"]
