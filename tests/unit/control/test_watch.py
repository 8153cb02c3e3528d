from __future__ import annotations

import os
from pathlib import Path

from sidecar.control.watch import fingerprint


def test_a_file_written_in_place_or_replaced_looks_different(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("a: 1")
    seen = [fingerprint(str(file))]
    file.write_text("a: 10")
    seen.append(fingerprint(str(file)))
    other = tmp_path / "new"
    other.write_text("a: 20")
    os.utime(other, ns=(0, file.stat().st_mtime_ns))
    other.rename(file)
    seen.append(fingerprint(str(file)))
    file.unlink()
    seen.append(fingerprint(str(file)))
    assert len(set(seen)) == 4
    assert seen[-1] == ()


def test_a_directory_is_its_entries(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a")
    seen = [fingerprint(str(tmp_path))]
    (tmp_path / "b.yaml").write_text("b")
    seen.append(fingerprint(str(tmp_path)))
    (tmp_path / "b.yaml").write_text("bb")
    seen.append(fingerprint(str(tmp_path)))
    assert len(set(seen)) == 3
    assert fingerprint(str(tmp_path)) == seen[-1]


def config_map(path: Path, version: str, text: str) -> None:
    """Replace files as the kubelet does: a new directory of data, and one rename of the link to it."""
    (path / version).mkdir()
    (path / version / "policy.yaml").write_text(text)
    os.utime(path / version / "policy.yaml", ns=(0, 0))
    (path / "..tmp").symlink_to(version)
    (path / "..tmp").rename(path / "..data")
    if not (path / "policy.yaml").is_symlink():
        (path / "policy.yaml").symlink_to("..data/policy.yaml")


def test_the_swap_of_a_config_map_is_seen_on_the_directory_and_on_the_file(tmp_path: Path) -> None:
    config_map(tmp_path, "..v1", "a: 1")
    seen = [(fingerprint(str(tmp_path)), fingerprint(str(tmp_path / "policy.yaml")))]
    for version in ("..v2", "..v3"):  # same size and time: only the target of the links differs
        config_map(tmp_path, version, "a: 1")
        seen.append((fingerprint(str(tmp_path)), fingerprint(str(tmp_path / "policy.yaml"))))
    assert len({directory for directory, _ in seen}) == 3
    assert len({file for _, file in seen}) == 3


def test_a_link_that_leads_nowhere_looks_like_nothing(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").symlink_to("missing")
    assert fingerprint(str(tmp_path / "p.yaml")) == ()
    (tmp_path / "missing").write_text("a")
    assert fingerprint(str(tmp_path / "p.yaml")) != ()
