from __future__ import annotations

import os
from pathlib import Path

from sidecar.file_watch import FileWatch, look


def test_a_change_is_due_once_two_looks_find_the_same() -> None:
    watch = FileWatch(1)
    assert [(facts, watch.is_due(facts), watch.is_changing) for facts in (1, 2, 3, 3, 3, 4, 3, 5, 5)] == [
        (1, False, False), (2, False, True), (3, False, True), (3, True, False), (3, False, False),
        (4, False, True), (3, False, False), (5, False, True), (5, True, False),
    ]  # fmt: skip


def test_a_file_is_known_by_its_identity_its_size_its_times_and_its_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen = [look(str(path))]
    path.write_text("a")
    seen.append(look(str(path)))
    path.write_text("ab")
    seen.append(look(str(path)))
    fresh = tmp_path / "fresh"
    fresh.write_text("cd")
    os.utime(fresh, ns=(0, path.stat().st_mtime_ns))
    fresh.replace(path)
    seen.append(look(str(path)))
    assert len(set(seen)) == 4
    assert look(str(path)) == seen[-1]
    assert look(str(path), str(fresh)) == (*seen[-1], *seen[0])
