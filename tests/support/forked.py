"""Many commands of `sidecar`, each in a process of its own that is forked once the modules are imported.

A start of Python and the imports dominate the time of a short command.  The entry point, the arguments, the exit code
and the two streams are those of a command that a shell starts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FORKING = """
import json, os, sys, traceback
import sidecar.app, sidecar.commands, sidecar.control.compiler, sidecar.inspect.explain, sidecar.policytest.run
from sidecar.cli import main
for number, arguments in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(f"{sys.argv[2]}/{number}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.argv = ["sidecar", *arguments]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Program that runs each list of arguments and prints its exit code; streams go to the files `NUMBER.1` and `.2`."""


def run_all(commands: Sequence[Sequence[str | Path]], directory: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run `sidecar` once with each list of arguments; the output passes through files in the directory."""
    texts = [[str(argument) for argument in arguments] for arguments in commands]
    done = subprocess.run(
        [sys.executable, "-c", FORKING, json.dumps(texts), str(directory)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return [
        subprocess.CompletedProcess(
            arguments, int(code), (directory / f"{number}.1").read_text(), (directory / f"{number}.2").read_text()
        )
        for number, (arguments, code) in enumerate(zip(texts, done.stdout.split(), strict=True))
    ]
