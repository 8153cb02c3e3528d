"""Result of a replay as one page of HTML that needs no other file."""

from __future__ import annotations

from html import escape
from typing import Final

from sidecar.replay.report import ROWS, table, verdict
from sidecar.replay.run import Replayed, mean

STYLE: Final = """
:root{color-scheme:light dark;--ok:#1a7f37;--bad:#cf222e;--line:#8884}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}th,td{padding:.3rem;border-bottom:1px solid var(--line);text-align:right}
th:first-child{text-align:left}.ok{color:var(--ok)}.bad{color:var(--bad)}
"""


def page(result: Replayed, failures: list[str], old: str, new: str) -> str:
    """Return the page; `old` and `new` are the paths of the policies."""
    record = result.record
    before, after = mean(result.old), mean(result.new)
    rows = []
    for (title, recorded, one, other, spread), (_, value, _, sign) in zip(table(result), ROWS, strict=True):
        was, now = value(before), value(after)
        change = 0 if was is None or now is None or one == other else (1 if now > was else -1) * sign
        mark = {1: ' class="ok"', -1: ' class="bad"'}.get(change, "")
        word = {1: "✓ ", -1: "✗ "}.get(change, "")
        rows.append(
            f'<tr><th scope="row">{escape(title)}</th><td>{escape(recorded)}</td><td>{escape(one)}</td>'
            f"<td{mark}>{word}{escape(other)}</td><td>{escape(spread)}</td></tr>"
        )
    sentences = "".join(f"<li>{escape(each)}</li>" for each in [*result.limits, *record.named])
    seeds = ", ".join(map(str, result.seeds))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Replay: {escape(verdict(result, []))}</title><style>{STYLE}</style></head><body>
<h1>{escape(verdict(result, failures))}</h1>
<p>{len(record.requests)} recorded requests in {record.seconds:.0f} s, in virtual time through the real pipeline under
{escape(old)} and under {escape(new)}; seeds {seeds}.</p>
<table><thead><tr><th scope="col">value</th><th scope="col">recorded</th><th scope="col">old</th>
<th scope="col">new</th><th scope="col">new over the seeds</th></tr></thead><tbody>{"".join(rows)}</tbody></table>
<h2>What the log cannot tell</h2><ul>{sentences}</ul></body></html>
"""
