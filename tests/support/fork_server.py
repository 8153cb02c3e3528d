"""Fork server: a process that has imported all modules of the sidecar, and forks one process for each command.

It is started by `tests.support.forked` with a descriptor, on which it gets commands.  It uses no threads, since a fork
copies only the thread that calls it, and no event loop.  Every fork has the arguments, environment, directory and three
standard streams of its command, and the default action for each signal.  It runs the entry point and ends with the exit
code of that.  A fork ends if the server does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from sidecar.process.children import tied_to_parent
from sidecar.process.interpreter import prepare_imports

LONGEST: Final = 2**18
"""Most bytes of a command."""
WITHOUT: Final = ("__main__", "sidecar.demo")
"""Modules that a forked command does not need, or that run something once they are imported."""


def import_all() -> None:
    """Import the modules of the sidecar and freeze their objects, so that a collection in a fork does not copy them."""
    prepare_imports()
    import sidecar

    for module in pkgutil.walk_packages(sidecar.__path__, "sidecar."):
        if not module.name.endswith(WITHOUT[0]) and not module.name.startswith(WITHOUT[1]):
            with contextlib.suppress(ImportError):  # of an optional library
                importlib.import_module(module.name)
    gc.freeze()


def serve(channel: socket.socket) -> Callable[[], None] | None:
    """Fork for each command; return what the fork has to do in it, and None in the server once its channel ends."""
    reports: dict[int, int] = {}
    tie = tied_to_parent()
    assert tie is not None

    def reap(*_: object) -> None:
        """Report the exit code of each fork that has ended."""
        while reports:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            report = reports.pop(pid)
            tell(report, os.waitstatus_to_exitcode(status))
            os.close(report)

    signal.signal(signal.SIGCHLD, reap)
    while True:
        text, handles, _flags, _address = socket.recv_fds(channel, LONGEST, 4)
        if not text:
            return None
        *streams, report = handles
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # `reap` would not know the fork yet
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            tie()
            for number, handle in enumerate(streams):
                os.dup2(handle, number)
            for handle in (*handles, *reports.values()):
                os.close(handle)
            channel.close()
            return lambda: become(**json.loads(text))
        for handle in streams:
            os.close(handle)
        reports[pid] = report
        tell(report, pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def tell(report: int, number: int) -> None:
    """Write a line with a number, if somebody still reads the report."""
    with contextlib.suppress(BrokenPipeError):
        os.write(report, b"%d\n" % number)


def become(argv: list[str], env: dict[str, str], directory: str) -> NoReturn:
    """Run `sidecar` as a process that has just been started, and end with its exit code.

    The interpreter is not finalized: it would free all modules one by one, and copy their memory for that.
    """
    os.environ.clear()
    os.environ.update(env)
    os.chdir(directory)
    sys.argv[:] = argv
    sys.orig_argv[:] = [sys.executable, *argv]
    gc.enable()
    from sidecar.cli import main

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


if __name__ == "__main__":
    import_all()
    if (job := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        job()
