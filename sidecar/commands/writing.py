"""Commands that write files: `promote`, `key`, `init`, `import`, `proto pull`."""

from __future__ import annotations

import os
import sys
from typing import Final

import click

from sidecar.command_line import FAILURE, Choice, Failure, Program, counted, reject, suggest
from sidecar.commands.files import PATH, open_binary, print_problems, read_headers, read_sources, write_new
from sidecar.commands.group import main

IMPORTS: Final = ("envoy", "nginx", "istio", "dapr", "traefik", "gateway-api")
"""Kinds of configuration that `import` translates."""


@main.command(
    examples=[
        ("sidecar promote --dry-run policies.yaml checkout", "Print what would change."),
        ("sidecar promote policies.yaml checkout", "Give the candidate all requests of the route."),
        ("sidecar promote --arm checkout-v1 policies.yaml checkout", "Take the split back out of the file."),
        ("sidecar promote policies/", "Give all requests to the policies of policies/candidate/."),
    ]
)
@click.argument("path", type=PATH)
@click.argument("route", required=False)
@click.option("--arm", metavar="NAME", help="Upstream of the split that gets all requests; by default the candidate.")
@click.option("--dry-run", is_flag=True, help="Print the change as a unified diff, and write nothing.")
def promote(path: str, route: str | None, arm: str | None, dry_run: bool) -> None:
    """Make the candidate of a route the route itself.

    The policies of `candidate` are merged over those of the route, or the split is replaced by one upstream.  Comments
    and layout of the file stay.  A result that would say anything else than the candidate is not written.

    Without ROUTE, the files of the directory `candidate` below PATH take the place of the others, one after another.
    Run it where the files are kept, not where a sidecar watches them.
    """
    from sidecar.config.load import load
    from sidecar.config.report import visible
    from sidecar.inspect.promote import Promotion, PromotionError, WholePromotion, promote_directory
    from sidecar.inspect.promote import promote as edit

    sources = read_sources(path, as_json=False)
    loaded = load(sources, os.environ)
    if loaded.spec is None:
        print_problems(loaded)
        sys.exit(FAILURE)
    names = [each.name for each in loaded.spec.routes]
    if route is not None and route not in names:
        reject("ROUTE", f"there is no route `{route}`; {suggest(route, names)}")
    try:
        if route is None:
            found: Promotion | WholePromotion = promote_directory(sources, os.environ)
            done = f"{path}: has the policies of its candidate now"
        else:
            found = one = edit(sources, loaded.spec, route, arm, os.environ)
            done = f"{one.name}: route `{route}` is now `{one.arm}`"
    except PromotionError as error:
        raise Failure(visible(str(error))) from None
    if dry_run:
        click.echo(found.diff(), nl=False)
        return
    try:
        found.write()
    except OSError as error:
        raise Failure(f"{error.filename or path}: {error.strerror}; name a file that can be written") from None
    click.echo(visible(done))


@main.command(
    examples=[
        ("sidecar key new batch-2027", "Make a key and print it, with its entry for the file."),
        ("sidecar key new batch-2027 --owner batch --file keys.yaml", "Make a key and add it to a file."),
    ]
)
@click.argument("action", type=Choice(["new"]))
@click.argument("name")
@click.option("--owner", metavar="NAME", help="Name of the caller; by default that of the key.")
@click.option("--file", "path", metavar="FILE", help="File of keys that the entry is added to.")
def key(action: str, name: str, owner: str | None, path: str | None) -> None:
    """Make an API key for the identity `api_key`.

    The key is printed once and stored nowhere; the file has its digest only.
    """
    from sidecar.identity.api_keys import add_entry, new_key

    assert action == "new"
    made, entry = new_key(name, owner or name)
    if path is not None:
        try:
            add_entry(path, entry)
        except OSError as error:
            raise Failure(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise Failure(f"{path}: {error}") from None
    click.echo(made)
    click.echo(f"keys:\n{entry}" if path is None else f"{path} has its digest", nl=path is not None, err=True)


@main.command(
    examples=[
        ("sidecar init docker-compose.yml --service orders -o policies.yaml", "For one service of a Compose file."),
        ("sidecar init service.yaml openapi.yaml", "From a Service and what its API says."),
    ]
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--service", default="", metavar="NAME", help="Service that the sidecar is for.")
@click.option("-o", "--output", metavar="FILE", help="New file to write; by default standard output.")
def init(files: tuple[str, ...], service: str, output: str | None) -> None:
    """Print a first policy for a service.

    FILE is a Compose file, Kubernetes manifests or an OpenAPI document.  Ports, health checks, peers, paths and streams
    come from there, and each value has its reason beside it.
    """
    from sidecar.starter.facts import StarterError
    from sidecar.starter.read import read_facts
    from sidecar.starter.writer import write_policy

    try:
        sources = [(os.path.basename(name), open_binary(name).decode("utf-8", "replace")) for name in files]
        policy = write_policy(read_facts(sources, service))
    except StarterError as error:
        raise Failure(str(error)) from None
    if output is None:
        click.echo(policy, nl=False)
        return
    write_new(output, policy)
    click.echo(f"{output}: written; next: sidecar check {output}")


@main.command(
    "import",
    examples=[
        ("sidecar import envoy envoy.yaml -o policies.yaml", "From Envoy's bootstrap."),
        ("sidecar import nginx nginx.conf", "From an nginx configuration."),
        ("sidecar import istio reviews.yaml", "From VirtualServices, DestinationRules, ServiceEntries and Gateways."),
        ("sidecar import dapr resiliency.yaml", "From Dapr's resiliency."),
        ("sidecar import traefik dynamic.toml", "From a dynamic configuration, or from IngressRoutes."),
        ("sidecar import gateway-api routes.yaml", "From HTTPRoutes, GRPCRoutes and Gateways."),
    ],
)
@click.argument("kind", type=Choice(IMPORTS), metavar=f"[{'|'.join(IMPORTS)}]")
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", metavar="FILE", help="New file to write; by default standard output.")
def import_(kind: str, file: str, output: str | None) -> None:
    """Print a policy made from another proxy's configuration.

    Each value has the line that it comes from beside it.  What has no equal here, or another meaning, is listed with
    its line on standard error and at the end of the policies.  A route refuses all requests if its original lets only
    some in by means that are not translated.
    """
    from sidecar.imports.findings import TranslationError
    from sidecar.imports.translate import translate

    try:
        translation = translate(kind, os.path.basename(file), open_binary(file).decode("utf-8", "replace"))
    except TranslationError as error:
        raise Failure(str(error)) from None
    if output is None:
        click.echo(translation.policy, nl=False)
    else:
        write_new(output, translation.policy)
    for each in translation.findings:
        click.echo(each, err=True)
    if output is not None:
        click.echo(f"{output}: written, {counted(len(translation.findings), 'note')}; next: sidecar check {output}")


@main.group("proto", cls=Program, examples=[("sidecar proto pull 127.0.0.1:9000 -o shop.binpb", "Save the types.")])
def proto() -> None:
    """Work with descriptor sets of gRPC services."""


@proto.command(
    "pull",
    examples=[
        ("sidecar proto pull 127.0.0.1:9000 -o shop.binpb", "Save the descriptor set of a service."),
        (
            "sidecar proto pull https://shop.prod:443 --service shop.Orders -o shop.binpb",
            "Save what one service needs.",
        ),
    ],
)
@click.argument("address")
@click.option("-o", "--output", metavar="FILE", help="File to write; by default standard output.")
@click.option("--service", "services", multiple=True, metavar="NAME", help="Only this service; may be repeated.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the questions.")
@click.option("--ca", metavar="FILE", help="Certificate authorities of the server, in PEM.")
@click.option("--timeout", type=float, default=10.0, metavar="SECONDS", help="Longest time of a question.")
def pull(
    address: str,
    output: str | None,
    services: tuple[str, ...],
    headers: tuple[str, ...],
    ca: str | None,
    timeout: float,
) -> None:
    """Write the descriptor set of a running service.

    ADDRESS is host:port, or a URL; https:// means TLS.  The service must have server reflection.
    """
    from sidecar.proto import reflection

    scheme, mark, rest = address.rpartition("://")
    target = rest.rstrip("/")
    if (mark and scheme not in ("http", "https")) or ":" not in target or not target.rpartition(":")[2].isdigit():
        reject("ADDRESS", f"`{address}` is not an address; write such as 127.0.0.1:9000 or https://shop.prod:443")
    pairs = [(name.strip().lower(), value.strip()) for name, value in read_headers(headers)]
    try:
        authorities = None if ca is None else open_binary(ca)
        found = reflection.pull(reflection.askers(target, authorities, scheme == "https", pairs, timeout), services)
    except reflection.PullError as error:
        raise Failure(f"{address}: {error}") from None
    if output is None:
        click.echo(found, nl=False)
        return
    try:
        with open(output, "wb") as file:
            file.write(found)
    except OSError as error:
        raise Failure(f"{output}: {error.strerror}; name a file that can be written") from None
    click.echo(f"{output}: {counted(len(found), 'byte')}")
