"""Texts of a policy that may be templates (`sidecar.core.template`)."""

from __future__ import annotations

from typing import Final

from sidecar.core.exchange import Exchange
from sidecar.core.template import Template, names

NO_REQUEST: Final = Exchange(b"GET", b"/")
"""Request for templates that read no request."""
DEPLOYMENT: Final = frozenset(("service", "route", "upstream"))
"""Names of templates whose values are known when policies are loaded."""


class RewriteError(ValueError):
    """Message that cannot be rewritten as the policy says; the text completes "The request ..."."""


def is_constant(template: Template) -> bool:
    """True if the template has the same value for every request."""
    return DEPLOYMENT.issuperset(names(template.text))
