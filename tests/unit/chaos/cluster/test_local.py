"""Tests of a cluster of processes: handling of the lines that a part writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chaos.cluster.local import Local
from chaos.cluster.node import MAX_ROWS, Node


def test_rows_that_a_part_dropped_are_noted(tmp_path: Path, monkeypatch: Any) -> None:
    node, sent = Node(), []
    monkeypatch.setattr(node, "send", lambda **message: sent.append(json.dumps(message)))
    for number in range(MAX_ROWS + 3):
        node.report(("sample", number))
    node.flush()
    node.flush()
    rows: list[Any] = []
    cluster = Local(tmp_path, rows.append, 1, "bare")
    for line in (*sent, "no JSON", "[1]"):
        cluster._on_part("app", line)
    assert len(sent) == 1
    assert rows[:MAX_ROWS] == [("sample", number) for number in range(MAX_ROWS)]
    assert rows[MAX_ROWS:] == [("note", "app: 3 rows were lost")]
