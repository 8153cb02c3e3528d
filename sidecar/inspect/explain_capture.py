"""Ways of redirected connections through a listener, for `sidecar explain`."""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.config.process_spec import HTTP1, HTTP2, ListenerSpec


def capture_sentences(listener: ListenerSpec) -> list[str] | None:
    """Return where connections of each protocol go; None for a listener that takes no redirected connections."""
    return list(_sentences(listener)) if listener.original_destination else None


def _sentences(listener: ListenerSpec) -> Iterator[str]:
    spec = listener.capture
    yield (
        "a request without a route goes on to the address that its client has dialled, over its version of HTTP, and "
        "meets no policy"
    )
    for version, name in ((HTTP1, "HTTP/1"), (HTTP2, "HTTP/2")):
        if version not in listener.protocols:
            yield f"{name} passes as TCP, because `protocols` leaves it out"
    for server_name, upstream in spec.server_names.items():
        yield f"TLS to {server_name} passes to an endpoint of the upstream {upstream}, and is not decrypted"
    yield f"{'all other ' * bool(spec.server_names)}TLS passes to the address that its client has dialled"
    yield (
        "all other protocols pass as TCP to that address, a client that is silent after "
        f"{spec.sniff_timeout:g}s (capture.sniff_timeout)"
    )
    yield (
        f"a connection that passes has {spec.connect_timeout:g}s to connect (capture.connect_timeout), and ends after "
        f"{spec.idle_timeout:g}s without bytes (capture.idle_timeout)"
    )
    yield f"at most {spec.max_passages} pass at a time, and more are reset (capture.max_passages)"
