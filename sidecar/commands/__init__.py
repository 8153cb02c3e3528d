"""Commands of `sidecar`.  Their output for machines and their exit codes are in `docs/command-line.md`.

| module | |
|---|---|
| `group` | the group that all commands belong to |
| `files` | policy files as commands read them, and documents as they print them |
| `serving` | `run`, `demo`, `top` |
| `policies` | `check`, `schema`, `test`, `routes`, `explain` |
| `evidence` | `lint`, `diff`, `replay`, `recommend` |
| `writing` | `promote`, `key`, `init`, `import`, `proto pull` |
| `cluster` | `inject`, `capture` |

Rules:

1. Each command imports what it needs when it runs, so that `--help` and `--version` are quick and `check` does not load
   the data plane.
2. Results go to standard output.  Problems that keep a command from its result go to standard error.  With `--json`
   both are one document on standard output; only a mistake in the command line is not.
"""

from __future__ import annotations

from sidecar.command_line import add_completion
from sidecar.commands import cluster, evidence, policies, serving, writing
from sidecar.commands.group import main

__all__ = ["cluster", "evidence", "main", "policies", "serving", "writing"]

add_completion(main)
