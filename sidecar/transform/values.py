"""Texts of a policy that may be templates (`sidecar.core.template`)."""

from __future__ import annotations

from typing import Final

from sidecar.core.exchange import Exchange
from sidecar.core.template import Template, names

NOBODY: Final = Exchange(b"GET", b"/")
"""For templates that do not read the request."""
DEPLOYMENT: Final = frozenset(("service", "route", "upstream"))
"""Names whose values are known when policies are loaded."""


class Refused(ValueError):  # noqa: N818 - a document, not an error of ours
    """A request or response that cannot be rewritten as the policy says; the message completes "The request ..."."""


def fixed(template: Template) -> bool:
    """Does it come out the same for every request?"""
    return DEPLOYMENT.issuperset(names(template.text))
