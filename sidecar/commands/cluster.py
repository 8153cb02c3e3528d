"""Commands for clusters and hosts: `inject`, `capture`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import click

from sidecar.command_line import Failure, reject
from sidecar.commands.files import PATH, load_policies, open_binary
from sidecar.commands.group import main


@main.command(
    examples=[
        ("sidecar inject orders.yaml", "Add the sidecar to what a file describes."),
        ("sidecar inject - --policies shop-policies", "The same for what another tool writes to its output."),
        ("sidecar inject --capture orders.yaml", "Redirect the connections of each pod too."),
        ("sidecar inject --undo orders.yaml", "Take it out again."),
        ("sidecar inject --component deploy/sidecar", "Write a kustomize component that adds it."),
    ]
)
@click.argument("file", required=False, metavar="FILE")
@click.option("--undo", is_flag=True, help="Take the sidecar out of the workloads that have it.")
@click.option("--image", default="resilience-sidecar", show_default=True, help="Image of the sidecar.")
@click.option("--policies", multiple=True, metavar="NAME", help="ConfigMap with policies for all; may be repeated.")
@click.option(
    "--admin-port", type=click.IntRange(1, 65535), default=9901, show_default=True, help="Port of the probes."
)
@click.option("--capture", "is_captured", is_flag=True, help="Redirect the connections of each pod to the sidecar.")
@click.option(
    "--capture-port",
    type=click.IntRange(1, 65535),
    default=15001,
    show_default=True,
    help="Port of the listener for redirected connections.",
)
@click.option("--component", metavar="DIR", help="Write a kustomize component to this directory instead.")
def inject(
    file: str | None,
    undo: bool,
    image: str,
    policies: tuple[str, ...],
    admin_port: int,
    is_captured: bool,
    capture_port: int,
    component: str | None,
) -> None:
    """Print Kubernetes manifests whose workloads have the sidecar.

    FILE has Deployments, StatefulSets, DaemonSets, Jobs, CronJobs or Pods; - reads standard input.  Other documents
    stay as they are.  A second run changes nothing.

    The policies come from the ConfigMaps of --policies, and from those in FILE whose label
    resilience-sidecar/policies-of has the name of the workload, or `all`; without any from the ConfigMap NAME-policies.
    The annotation resilience-sidecar/inject: "false" leaves a workload out.

    With --capture an init container runs `sidecar capture` before the sidecar starts.  It needs the capability
    NET_ADMIN.
    """
    from sidecar.manifests import component as components
    from sidecar.manifests import inject as manifests
    from sidecar.manifests.documents import ManifestError
    from sidecar.manifests.pod import Options

    options = Options(image, admin_port, policies, capture_port if is_captured else None)
    if component is not None:
        if file is not None or undo:
            reject("--component", "stands alone; leave FILE and --undo out")
        write_files(component, components.files(options))
        return
    if file is None:
        reject("FILE", "is missing; name a file of manifests, or - for standard input")
    source = sys.stdin.read() if file == "-" else open_binary(file).decode("utf-8", "replace")
    try:
        result = manifests.undo(source) if undo else manifests.inject(source, options)
    except ManifestError as error:
        raise Failure(f"{file}:{error}") from None
    click.echo(result.text, nl=False)
    for note in result.notes:
        click.echo(f"{file}:{note}", err=True)
    if not result.changed:
        click.echo(f"{file}: no workload {'has the sidecar' if undo else 'to add the sidecar to'}", err=True)


@main.command(
    examples=[
        ("sidecar capture policies.yaml", "Print the rules for nftables."),
        ("sidecar capture --apply --uid 65532 policies.yaml", "Put them in force."),
        ("sidecar capture --undo policies.yaml", "Remove them."),
    ]
)
@click.argument("path", type=PATH)
@click.option("--apply", "is_applied", is_flag=True, help="Put the rules in force, in place of earlier ones.")
@click.option("--undo", is_flag=True, help="Remove the rules.")
@click.option("--iptables", "uses_iptables", is_flag=True, help="Use iptables and ip6tables instead of nftables.")
@click.option(
    "--uid",
    type=click.IntRange(0, 2**32 - 2),
    default=65532,
    show_default=True,
    help="User of the sidecar, whose connections are exempt.",
)
@click.option(
    "--skip-port", "ports", type=click.IntRange(1, 65535), multiple=True, help="Port to leave alone; may be repeated."
)
@click.option(
    "--skip-network", "networks", multiple=True, metavar="CIDR", help="Network to leave alone; may be repeated."
)
def capture(
    path: str,
    is_applied: bool,
    undo: bool,
    uses_iptables: bool,
    uid: int,
    ports: tuple[int, ...],
    networks: tuple[str, ...],
) -> None:
    """Print rules of the kernel that redirect connections here.

    The rules hold for all programs of this network namespace.  Their connections go to the listeners of PATH with
    `original_destination`.  Loopback and the sidecar's own user are exempt.
    """
    from sidecar.process import redirect as rules

    if is_applied and undo:
        reject("--undo", "stands beside --apply; give one of them")
    try:
        if undo:
            rules.undo(uses_iptables=uses_iptables)
            click.echo("the rules are removed")
            return
        redirect = rules.plan(load_policies(path), uid, ports, networks)
        if not is_applied:
            click.echo(rules.iptables_script(redirect) if uses_iptables else rules.nft_rules(redirect), nl=False)
            return
        rules.apply(redirect, uses_iptables=uses_iptables)
    except rules.RedirectError as error:
        raise Failure(f"{path}: {error}" if str(error).startswith("listeners") else str(error)) from None
    click.echo("the rules are in force")


def write_files(directory: str, files: Mapping[str, str]) -> None:
    """Write files to a directory, which is made if it is missing; a failure ends the command."""
    try:
        os.makedirs(directory, exist_ok=True)
        for name, content in files.items():
            with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                file.write(content)
    except OSError as error:
        raise Failure(
            f"{error.filename or directory}: {error.strerror}; name a directory that can be written"
        ) from None
    click.echo(f"{directory}: {', '.join(files)}")
