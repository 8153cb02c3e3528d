"""Container engine as far as `chaos.cluster.containers` uses one, made of plain processes.

    python engine.py PLACE COMMAND ...

PLACE is a directory with one file for each running container, which has its process id, and with `log`, which has every
command.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGTERM, "pause": signal.SIGSTOP, "unpause": signal.SIGCONT}
FLAGS = ("--rm", "--interactive", "--init", "--read-only")


def run(place: Path, words: list[str]) -> None:
    """Replace this process by the container's program, so that input, output and signals are the container's."""
    options: dict[str, list[str]] = {}
    while words[0].startswith("--"):
        name = words.pop(0)
        if name not in FLAGS:
            options.setdefault(name, []).append(words.pop(0))
    image, *argv = words
    assert image == "resilience-sidecar", image
    outside, inside, mode = options["--volume"][0].split(":")
    assert mode == "ro"
    assert Path(outside).stat().st_mode & 0o005 == 0o005, "an image that is not root's cannot read it"
    (place / options["--name"][0]).write_text(str(os.getpid()))
    env = dict(setting.split("=", 1) for setting in options.get("--env", []))
    argv = [word.replace(inside, outside) for word in argv]
    os.execve(sys.executable, [sys.executable, *argv], {**os.environ, **env})


def main() -> None:
    place, command, *words = Path(sys.argv[1]), *sys.argv[2:]
    with (place / "log").open("a") as log:
        log.write(" ".join((command, *words)) + "\n")
    if command == "run":
        run(place, words)
    names = [word for word in words if (place / word).exists()]
    for name in names:
        pid = int((place / name).read_text())
        if command == "inspect":
            print(pid)
        elif command in SIGNALS:
            os.kill(pid, SIGNALS[command])
        elif command == "rm":
            (place / name).unlink()


if __name__ == "__main__":
    main()
