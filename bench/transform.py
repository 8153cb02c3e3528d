"""CPU cost of a `transform`: `python -m bench.transform [--repeat 1000]`.

Measured are the CPU microseconds that the stage adds to a request, on this interpreter and without sockets.  The same
request runs in turn through an inner service that answers at once, with and without the stage around it.  The shortest
of many short runs counts, since every disturbance makes a run longer.  The request has ten fields as a browser sends
them; the JSON body is an order of 24 items (2.8 KiB), once compact and once with white space.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Service
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.transform.spec import Spec
from sidecar.stages.transform.stage import build
from sidecar.telemetry.metrics.registry import Registry

RUNS: Final = 50
LINES: Final = b"".join(
    b"%b: %b\r\n" % (name.encode(), value.encode())
    for name, value in {
        "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "Accept-Encoding": "gzip, deflate",
        "Accept-Language": "en-GB,en;q=0.5",
        "Cookie": "session=8f14e45fceea167a5a36dedd4bea2543; theme=dark",
        "X-User": "ada",
        "Cache-Control": "no-cache",
        "Referer": "https://shop.example.com/orders?page=2",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "x-request-id": "6f1c2e0f0e2c4d6b8a7f5e3d1c0b9a88",
    }.items()
)
ITEMS: Final = [
    {
        "sku": f"A-{n}",
        "title": f"Thing number {n}",
        "qty": n,
        "price": {"amount": n * 1.25, "currency": "EUR"},
        "tags": ["a", "b"],
    }
    for n in range(24)
]
ORDER: Final = {
    "id": 12345678901234567890123, "qty": 3, "total": 19.9, "created": "2025-01-02T03:04:05Z", "items": ITEMS,
    "customer": {"name": "Ada Lovelace", "email": "ada@example.com", "password": "x"}, "meta": {},
}  # fmt: skip
COMPACT: Final = json.dumps(ORDER, separators=(",", ":")).encode()
SPACED: Final = json.dumps(ORDER).encode()
OPERATIONS: Final = {
    "set": {"/meta/source": "sidecar"}, "rename": {"/qty": "quantity"}, "remove": ["/customer/password"],
}  # fmt: skip
CASES: Final[dict[str, tuple[Any, bytes]]] = {
    "one header set": ({"request": {"headers": {"set": {"x-request-source": "sidecar"}}}}, b""),
    "one header set, one removed": (
        {"request": {"headers": {"set": {"x-request-source": "sidecar"}, "remove": ["cookie"]}}},
        b"",
    ),
    "one header set, one removed, one renamed": (
        {"request": {"headers": {"set": {"x-source": "sidecar"}, "remove": ["cookie"], "rename": {"x-user": "x-id"}}}},
        b"",
    ),
    "one header of the answer set, one removed": (
        {"response": {"headers": {"set": {"x-served-by": "{service}"}, "remove": ["server"]}}},
        b"",
    ),
    "a condition on a header": (
        {"request": {"when": "request.headers['x-user'] == 'eve'", "headers": {"set": {"a": "b"}}}},
        b"",
    ),
    "a path template": ({"request": {"path": "/internal/v2/orders/{path.id}"}}, b""),
    "three operations on the answer's body": ({"response": {"body": OPERATIONS}}, COMPACT),
    "the same with white space": ({"response": {"body": OPERATIONS}}, SPACED),
}


def request() -> Exchange:
    """Return a request as the downstream connection makes it."""
    x = Exchange(b"GET", b"/orders/7", None, LINES)
    x.captures = {"id": "7"}
    return x


def answering(body: bytes) -> Service:
    """Return an inner service that answers at once."""
    lines = b'content-type: application/json\r\netag: "1"\r\nserver: app\r\ndate: Sun, 15 Jun 2025 15:06:40 GMT\r\n'

    async def answer(_: Exchange) -> Outcome:
        return Outcome(200, None, body, lines=lines)

    return answer


def context() -> BuildContext:
    """Return the context of a stage that needs nothing but a meter."""
    env: Any = type("Env", (), {"meter": Registry()})
    nothing: Callable[..., Any] = lambda *_: None  # noqa: E731 - it stands for two
    return BuildContext(env, "order", "app", "route", "policies.yaml:1", nothing, nothing, "orders")


def finish(coroutine: Coroutine[Any, Any, Outcome]) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("it waits")


def once(service: Service) -> float:
    """Return the CPU seconds of a request in a short run."""
    start = time.process_time()
    for _ in range(RUNS):
        finish(service(request()))
    return (time.process_time() - start) / RUNS


def rows(repeat: int = 1000) -> list[tuple[str, float]]:
    """Return the name of each case and the microseconds that it adds to a request."""
    ctx = context()
    found = []
    for name, (block, body) in CASES.items():
        inner = answering(body)
        service = Pipeline([build(Spec.model_validate(block), ctx)], inner)
        runs = [(once(inner), once(service)) for _ in range(repeat)]
        bare, whole = (min(run[index] for run in runs) for index in (0, 1))
        found.append((name, (whole - bare) * 1e6))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU microseconds that a transform adds to a request")
    parser.add_argument("--repeat", type=int, default=1000, help="number of short runs of each (1000)")
    options = parser.parse_args()
    for name, microseconds in rows(options.repeat):
        print(f"{name:45} {microseconds:6.2f} us")


if __name__ == "__main__":
    main()
