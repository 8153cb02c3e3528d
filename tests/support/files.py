"""Files that a running process watches: replaced as a whole, because it may read them at any moment."""

from __future__ import annotations

from pathlib import Path


def replace(path: Path, content: str | bytes) -> None:
    """Replace a file by a rename; `Path.write_text` would first cut it off."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(content.encode() if isinstance(content, str) else content)
    draft.replace(path)
