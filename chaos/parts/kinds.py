"""Kinds of parts by name, as a cluster starts them."""

from __future__ import annotations

from typing import Any

from chaos.parts.kubernetes import ApiServerPart
from chaos.parts.link import Link
from chaos.parts.load import Load
from chaos.parts.part import Part, PartEnv
from chaos.parts.service import Service
from chaos.parts.store import Store


def make_part(kind: str, name: str, spec: dict[str, Any], env: PartEnv) -> Part:
    """Return a new part.  Raises `ValueError` for an unknown kind."""
    if kind == "service":
        return Service(name, spec, env)
    if kind == "load":
        return Load(spec, env)
    if kind == "link":
        return Link(name, spec, env)
    if kind == "store":
        return Store(name, spec, env)
    if kind == "kubernetes":
        return ApiServerPart(spec, env)
    raise ValueError(f"there is no kind of part called {kind}")
