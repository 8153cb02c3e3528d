"""Group of all commands of `sidecar`."""

from __future__ import annotations

import click

from sidecar import __version__
from sidecar.command_line import Program
from sidecar.engine.build import describe_build


@click.group(
    "sidecar",
    cls=Program,
    examples=[
        ("sidecar demo", "Try it on this machine."),
        ("sidecar check policies.yaml", "Find the problems of a policy file."),
        ("sidecar run policies.yaml", "Serve it."),
    ],
)
@click.version_option(f"{__version__} ({describe_build()})", prog_name="sidecar", message="%(prog)s %(version)s")
def main() -> None:
    """Proxy beside a service: timeouts, retries, breakers and more for each route, from policy files.

    PATH is a policy file, or a directory whose *.yaml files are read together.

    Exit codes: 0 success, 1 the policies have problems or a test failed, 2 the command line is wrong.
    """
