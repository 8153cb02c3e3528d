"""Entry point of the command line.

`sidecar run PATH` starts the process without click, which all other commands need (`commands`): each import delays
the moment when a pod is ready.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that `sys.argv` names, and end the process with its exit code."""
    match sys.argv[1:]:
        case ["run", path] if path and not path.startswith("-"):
            from sidecar.process.start import prepare_process

            prepare_process()
            from sidecar.process.interpreter import prepare_imports

            prepare_imports()
            from sidecar.app import run

            run(path)
        case _:
            from sidecar.commands import main as command

            command(prog_name="sidecar")


if __name__ == "__main__":
    main()
