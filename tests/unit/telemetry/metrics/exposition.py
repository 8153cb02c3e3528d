"""Strict reader of Prometheus text format 0.0.4, which rejects everything that a lenient scraper has to guess."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,(?!$)|$)')
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
Labels = frozenset[tuple[str, str]]


@dataclass
class Family:
    kind: str
    help: str = ""
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)


def unescape(text: str) -> str:
    return re.sub(r"\\.", lambda match: ESCAPES[match[0]], text)


def read(page: str) -> dict[str, Family]:
    """Return the families by name; raise AssertionError if the page breaks a rule."""
    families: dict[str, Family] = {}
    helps: dict[str, str] = {}
    current = ""
    assert page == "" or page.endswith("\n"), "the last line must end in a line feed"
    for line in page.splitlines():
        if line.startswith("# HELP "):
            _, _, name, text = line.split(" ", 3)
            assert name not in helps, f"a second HELP for {name}"
            helps[name] = unescape(text)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in families, f"{name} is not in one group"
            assert kind in ("counter", "gauge", "histogram")
            assert kind != "counter" or name.endswith("_total")
            families[name] = Family(kind, helps.get(name, ""))
            current = name
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, labels, value = match.groups()
            family = families[current]
            allowed = ["_bucket", "_sum", "_count"] if family.kind == "histogram" else [""]
            assert name in [current + suffix for suffix in allowed], line
            key = (name.removeprefix(current), frozenset(read_labels(labels)))
            assert key not in family.samples, f"twice: {line}"
            family.samples[key] = number(value)
    for name, family in families.items():
        assert family.samples, f"{name} is empty"
        if family.kind == "histogram":
            check_histogram(family)
    return families


def read_labels(text: str | None) -> list[tuple[str, str]]:
    if text is None:
        return []
    found = []
    position = 0
    while position < len(text):
        match = LABEL.match(text, position)
        assert match, text
        found.append((match[1], unescape(match[2])))
        position = match.end()
    assert found, "empty braces"
    assert len(dict(found)) == len(found), f"a label comes twice: {text}"
    return found


def number(text: str) -> float:
    assert re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?|\+Inf|-Inf|NaN", text), text
    return float(text)


def check_histogram(family: Family) -> None:
    series: dict[Labels, list[tuple[float, float]]] = {}
    for (suffix, labels), value in family.samples.items():
        if suffix == "_bucket":
            bound = number(dict(labels)["le"])
            series.setdefault(frozenset(pair for pair in labels if pair[0] != "le"), []).append((bound, value))
    for labels, buckets in series.items():
        assert buckets == sorted(buckets), "bounds rise"
        counts = [count for _, count in buckets]
        assert counts == sorted(counts), "counts are cumulative"
        assert buckets[-1][0] == math.inf
        assert family.samples["_count", labels] == counts[-1]
        assert ("_sum", labels) in family.samples
