"""Conditions as values of policy files."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from sidecar.expression.condition import Condition
from sidecar.expression.facts import REQUEST, RESPONSE, WHOLE_REQUEST, Scope
from sidecar.expression.lexer import MAX_LENGTH


def _compiles(scope: Scope) -> AfterValidator:
    def check(text: str) -> str:
        Condition(text, scope)
        return text

    return AfterValidator(check)


def _schema(example: str) -> Any:
    return WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_LENGTH, "examples": [example]})


RequestWhen = Annotated[str, _compiles(REQUEST), _schema("request.method == 'POST'")]
"""A condition on a request's head."""
WholeRequestWhen = Annotated[str, _compiles(WHOLE_REQUEST), _schema("request.body.quantity > 100")]
"""A condition on a request, its JSON body included."""
ResponseWhen = Annotated[str, _compiles(RESPONSE), _schema("response.status == 200 && has(response.body.error)")]
"""A condition on an answer and the head of its request."""
