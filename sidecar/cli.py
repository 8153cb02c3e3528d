"""Entry point of the command line.

`sidecar run PATH` starts the process without the library that parses all other command lines (`commands.py`), because
a pod waits for it.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that `sys.argv` names; the process ends with its exit code."""
    match sys.argv[1:]:
        case ["run", path] if not path.startswith("-"):
            from sidecar.process.interpreter import prepare_imports

            prepare_imports()
            from sidecar.app import run

            run(path)
        case _:
            from sidecar.commands import main as command

            command(prog_name="sidecar")


if __name__ == "__main__":
    main()
