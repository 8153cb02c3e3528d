"""Target: path templates, and requests that match them.

The laws: nothing is raised but the errors of templates and requests; a template matches what its regular expression
matches; what is captured are parts of the path; a message that is made can be read.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from tests.fuzz.harness import fuzz, instrumented

with instrumented():
    from sidecar.core.uri import canonical
    from sidecar.grpc.bindings import Bindings, RequestError
    from sidecar.grpc.descriptors import read_descriptors
    from sidecar.grpc.templates import Template, TemplateError, TemplateTable
    from sidecar.grpc.to_json import to_json

TYPES = read_descriptors((Path(__file__).parents[2] / "policies/proto/shop.binpb").read_bytes())
BINDINGS = Bindings(TYPES, ["shop.Orders"])


def check(data: bytes) -> None:
    """Template, path, query and body, each on its line."""
    text, path, query, body = (*data.split(b"\n", 3), b"", b"", b"")[:4]
    path = canonical(b"/" + path.lstrip(b"/"))
    try:
        template = Template(text.decode("latin-1"))
    except TemplateError:
        pass
    else:
        match_one(template, path)
    for method in ("GET", "POST", "PATCH"):
        match = BINDINGS.table.find(method, path)
        if match.target is not None:
            try:
                message = match.target.message(match.segments, query, body, b"")
            except RequestError:
                continue
            to_json(match.target.method.input, message, TYPES)


def match_one(template: Template, path: bytes) -> None:
    """Compare a template with its regular expression."""
    table: TemplateTable[Template] = TemplateTable()
    table.add("GET", template, template)
    found = table.find("GET", path)
    parts = [
        rb"/[^/]+" if part == b"*" else rb"(?:/.*)?" if part == b"**" else b"/" + re.escape(part)
        for part in template.segments
    ]
    verb = b":" + re.escape(template.verb) if template.verb else b""
    expected = re.fullmatch(b"".join(parts) + verb, path, re.DOTALL) is not None
    assert (found.target is not None) == expected, (template, path)
    if expected:
        for value in template.captures(found.segments):
            assert unquote_to_bytes(value) in unquote_to_bytes(unquote_to_bytes(path)) or b"%" in value


if __name__ == "__main__":
    fuzz("templates", check)
