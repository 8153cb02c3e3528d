"""Conditions as values of policy files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, WithJsonSchema

from sidecar.expression import MAX_LENGTH


def _compiles(scope: Literal["AUTHORIZE", "MATCH", "REQUEST", "RESPONSE", "WHOLE_REQUEST"]) -> AfterValidator:
    """Return a validator: a text must be a condition in a scope of `facts.py`.  The first text imports that module."""

    def check(text: str) -> str:
        from sidecar.expression import condition, facts

        condition.Condition(text, getattr(facts, scope))
        return text

    return AfterValidator(check)


def _schema(example: str) -> Any:
    return WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_LENGTH, "examples": [example]})


MatchWhen = Annotated[str, _compiles("MATCH"), _schema("request.method == 'POST'")]
"""Condition on a request's head, before its caller is known."""
RequestWhen = Annotated[str, _compiles("REQUEST"), _schema("request.method == 'POST'")]
"""Condition on a request's head and its caller."""
AuthorizeWhen = Annotated[str, _compiles("AUTHORIZE"), _schema("caller.claims.tenant == path.tenant")]
"""Condition on a request's head, its caller, its client and the captures of its path."""
WholeRequestWhen = Annotated[str, _compiles("WHOLE_REQUEST"), _schema("request.body.quantity > 100")]
"""Condition on a request, its JSON body included."""
ResponseWhen = Annotated[str, _compiles("RESPONSE"), _schema("response.status == 200 && has(response.body.error)")]
"""Condition on a response and the head of its request."""
