"""Target: policy files, from bytes to pipelines.

Laws:

1. Nothing is raised; there are either problems or a spec.
2. Every problem has its place and a message; the same text gives the same result.
3. An accepted file compiles, explains and merges.
"""

from __future__ import annotations

import contextlib

from tests.fuzz.harness import fuzz, instrumented

with instrumented():
    from sidecar.config.files import Source, digest
    from sidecar.config.load import load
    from sidecar.control.compiler import CompileError
    from sidecar.inspect.dry import compile_dry

ENVIRON = {"NAME": "value", "PORT": "8080", "EMPTY": ""}


def check(data: bytes) -> None:
    """Check one file, or two that a line of dashes and dots separates."""
    sources = [Source(f"{number}.yaml", part) for number, part in enumerate(data.split(b"\n-.-\n")[:4])]
    loaded = load(sources, ENVIRON)
    assert bool(loaded.problems) != (loaded.spec is not None)
    for problem in (*loaded.problems, *loaded.warnings):
        assert problem.line >= 1, problem
        assert problem.column >= 1, problem
        assert problem.message, problem
        assert "\n" not in str(problem), repr(str(problem))
    again = load(sources, ENVIRON)
    assert again.problems == loaded.problems
    assert digest(sources) == digest(list(sources))
    if loaded.spec is not None:
        with contextlib.suppress(CompileError):
            compile_dry(loaded.spec)


if __name__ == "__main__":
    fuzz("policies", check)
