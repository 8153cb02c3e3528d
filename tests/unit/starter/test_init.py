"""Tests of first policies: facts of each kind of file, and a policy that passes `check` and `lint`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from sidecar.commands import main
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.starter.facts import Facts, StarterError
from sidecar.starter.read import read_facts
from sidecar.starter.writer import write_policy
from tests.support.cases import each

COMPOSE = """\
services:
  orders:
    build: .
    ports: ["127.0.0.1:8081:8000/tcp", "9000:9000"]
    environment:
      PAYMENTS_URL: http://payments:8080/v1
      STOCK: ${STOCK_URL:-http://my_stock:9000}
      DATABASE_URL: postgres://u:p@db:5432/x
      CACHE: redis:6379
      STRIPE: https://api.stripe.com
      PRICES: grpc://prices:50051
      MAIL: mail:8025
      SELF: http://localhost:1/
      DEBUG: "yes"
    depends_on: {payments: {condition: service_started}, db: {}, worker: {}, audit: {}}
    healthcheck:
      test: ["CMD-SHELL", "curl -f http://localhost:8000/healthz || exit 1"]
  payments: {image: "pay:1", expose: ["8080"]}
  my_stock: {image: "stock:1"}
  prices: {image: "p:1"}
  mail: {image: "m:1"}
  worker: {image: "w:1"}
  audit: {image: "a:1", ports: [{target: 7000, published: 1}]}
  redis: {image: "redis:7"}
  db: {image: "docker.io/library/postgres:16@sha256:00"}
"""
KUBERNETES = """\
apiVersion: v1
kind: Service
metadata: {name: orders}
spec: {ports: [{name: http, port: 80, targetPort: web}, {port: 9090}]}
---
apiVersion: v1
kind: Service
metadata: {name: prices}
spec: {ports: [{name: grpc-prices, port: 50051}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: orders}
spec:
  template:
    spec:
      containers:
        - name: orders
          ports: [{name: web, containerPort: 8000}]
          readinessProbe: {httpGet: {path: /ready, port: web}}
          env:
            - {name: PRICES, value: "http://prices.shop.svc.cluster.local:50051"}
            - {name: OLD, value: "http://old:1/"}
            - {name: SECRET, valueFrom: {secretKeyRef: {name: a, key: b}}}
"""
OPENAPI = """\
openapi: 3.1.0
info: {title: Orders API, version: 1}
servers: [{url: "https://x.example/api/"}]
paths:
  /orders/{id}:
    parameters: []
    get: {responses: {"200": {content: {application/json: {}}}}}
    put: {responses: {}}
  /events:
    get: {responses: {"200": {content: {text/event-stream: {}}}}}
  "/a?b": {get: {}}
  /orders/id: {get: {}, post: {}}
"""


def read(*contents: str, service: str = "orders") -> Facts:
    names = ("docker-compose.yml", "more.yaml", "third.yaml")
    return read_facts(list(zip(names, contents, strict=False)), service)


def peers(facts: Facts) -> dict[str, str]:
    return {
        name: f"{peer.scheme}://{peer.host}:{peer.port}{' http2' if peer.is_http2 else ''}"
        for name, peer in facts.peers.items()
    }


def test_a_compose_file() -> None:
    facts = read(COMPOSE)
    assert (facts.port, facts.port_place) == (8000, "docker-compose.yml:4")
    assert (facts.health, facts.health_place) == ("/healthz", "docker-compose.yml:17")
    assert peers(facts) == {
        "payments": "http://payments:8080",
        "my_stock": "http://my_stock:9000",
        "api.stripe.com": "https://api.stripe.com:443",
        "prices": "http://prices:50051 http2",
        "mail": "http://mail:8025",
        "audit": "http://audit:7000",
    }
    assert facts.peers["my_stock"].place == "docker-compose.yml:7"
    assert facts.left_out == [
        "docker-compose.yml:15: db (postgres) does not speak HTTP; ask it directly",
        "docker-compose.yml:15: worker states no port; add an upstream if it speaks HTTP",
    ]


def test_manifests() -> None:
    facts = read(KUBERNETES)
    assert (facts.port, facts.health) == (8000, "/ready")
    assert peers(facts) == {"prices": "http://prices.shop.svc.cluster.local:50051 http2"}
    assert facts.left_out == [
        "docker-compose.yml:4: port 9090 of the Service; add a listener and a route if it is HTTP",
        "docker-compose.yml:23: old has no Service in the file; add an upstream for it",
    ]
    assert read(KUBERNETES, service="prices").is_http2


def test_an_openapi_document() -> None:
    facts = read(OPENAPI)
    assert [(each.name, each.path, each.methods, each.streams) for each in facts.operations] == [
        ("api-orders-id", "/api/orders/{id}", ["GET"], False),
        ("api-orders-id-writes", "/api/orders/{id}", ["PUT"], False),
        ("api-events", "/api/events", ["GET"], True),
        ("api-orders-id-2", "/api/orders/id", ["GET"], False),
        ("api-orders-id-writes-2", "/api/orders/id", ["POST"], False),
    ]
    assert facts.left_out == ["docker-compose.yml:11: /a?b gets no route: it has a query or a fragment"]


@each([
    ("/files/{id}.json", ("/files/[^/]+\\.json", True)),
    ("/r/{id}:cancel/{name}", ("/r/[^/:]+:cancel/[^/]+", True)),
    ("/{a}/b/{c}-d/{e}^f/{g}].{h}", ("/[^/]+/b/[^/\\-]+\\-d/[^/\\^]+\\^f/[^/]+", True)),
    ("/compare/{base}...{head}", ("/compare/[^/]+", True)),
    ("/Users('{id}')", ("/Users\\('[^/]+'\\)", True)),
    ("/br{oken", ("/br\\{oken", True)),
    ("/a/{id}/b/{id}", ("/a/{id}/b/{id_2}", False)),
    ("/{1st}/{a-b}/{metadata.name}/{app}", ("/{_1st}/{a_b}/{metadata_name}/{app}", False)),
])  # fmt: skip
def test_parameters_of_every_spelling_are_captures_or_parts_of_a_pattern(case: tuple[str, tuple[str, bool]]) -> None:
    document = f'openapi: 3.0.0\npaths: {{"{case[0]}": {{get: {{}}}}}}\n'
    (operation,) = read(document).operations
    assert (operation.path, operation.is_pattern) == case[1]
    assert load([Source("a.yaml", write_policy(read(document)).encode())], {}).spec is not None


@each(["/_mock/docs", "/" + "very-long-name/" * 9, "/{id}", "/-/-", "/app"])
def test_every_path_gives_a_route_with_a_name(path: str) -> None:
    document = f'openapi: 3.0.0\npaths: {{"{path}": {{get: {{}}, put: {{}}}}, "{path}x": {{get: {{}}, put: {{}}}}}}\n'
    loaded = load([Source("a.yaml", write_policy(read(document)).encode())], {})
    assert not loaded.problems
    assert loaded.spec is not None
    assert len(loaded.spec.routes) == 5


@each([
    ("/bad%zz", "has a `%` that begins no escape"),
    ("/a/../b", "is read differently by different servers"),
    ("/v1/{name=projects/*}", "has a `*`, which means nothing here"),
    ("orders", "must start with a slash: write \"/orders\""),
])  # fmt: skip
def test_a_path_without_a_route_is_told(case: tuple[str, str]) -> None:
    facts = read(f'openapi: 3.0.0\npaths: {{"{case[0]}": {{get: {{}}}}, /a: {{get: {{}}}}}}\n')
    assert facts.left_out == [f"docker-compose.yml:2: {case[0]} gets no route: it {case[1]}"]


@each([
    (COMPOSE,),
    (KUBERNETES,),
    (OPENAPI,),
    (OPENAPI, COMPOSE),
    (COMPOSE, OPENAPI, KUBERNETES),
    ("services: {orders: {}}\n",),
    (COMPOSE.replace("8000", "8080"),),
    ("swagger: '2.0'\nbasePath: /v1\npaths: {/: {get: {produces: [application/x-ndjson]}}}\n",),
])  # fmt: skip
def test_the_policy_has_no_problem_and_no_warning(contents: tuple[str, ...]) -> None:
    policy = write_policy(read(*contents))
    loaded = load([Source("policies.yaml", policy.encode())], {})
    assert not loaded.problems
    assert not loaded.warnings
    assert max(map(len, policy.splitlines())) <= 140


def test_each_value_has_its_place_or_reason() -> None:
    policy = write_policy(read(COMPOSE))
    lines = [" ".join(line.split()) for line in policy.splitlines()]
    assert 'endpoints: ["http://127.0.0.1:8000"] # docker-compose.yml:4' in lines
    assert 'health_check: {path: "/healthz"} # docker-compose.yml:17' in lines
    assert "#   docker-compose.yml:15: db (postgres) does not speak HTTP; ask it directly\n" in policy
    past = (
        "  # docker-compose.yml:4 leads to port 8000, past the sidecar: write 8080 there, and where callers name it.\n"
    )
    assert past in policy
    assert "past the sidecar" not in write_policy(read("services: {orders: {environment: [PORT=8000]}}\n"))
    assert "docker-compose.yml:4 leads to port 8000, past" in write_policy(read(KUBERNETES))
    assert "no file states the port" in write_policy(read("services: {orders: {}}\n"))


def test_the_one_service_needs_no_name() -> None:
    assert read("services: {a: {}, db: {image: mysql}}\n", service="").name == "a"
    assert read(KUBERNETES.split("---")[0], service="").name == "orders"


@each([
    ("services: {}\n", "has no services"),
    ("services: {a: {}, b: {}}\n", "has several services; choose one: --service a | b"),
    ("apiVersion: v1\nkind: ConfigMap\n", "has no Service and no workload; choose one"),
    ("openapi: 3.0.0\npaths: {}\n", "has no paths"),
    ("a: b\n", "is no Compose file, no Kubernetes manifest and no OpenAPI document"),
    ("", "is no Compose file"),
    ("- a\n", "is no Compose file"),
    ("services: [\n", "docker-compose.yml:2:1: is no YAML"),
    ("services: {a: x, b: [], c: }\n", "has several services"),
])  # fmt: skip
def test_what_gives_no_policy(case: tuple[str, str]) -> None:
    with pytest.raises(StarterError) as raised:
        read(case[0], service="")
    assert str(raised.value).startswith("docker-compose.yml:")
    assert case[1] in str(raised.value)


@each(["services: {orders: x}", "services: {orders: {ports: x, environment: 3, depends_on: {a: }, healthcheck: []}}",
       "services: {orders: {ports: [x, '70000', 0, [1]], environment: [A, B=http://, C=http://b:99999]}, b: }",
       "openapi: 3\npaths: {/a: , /b: {get: }, x: {get: {}}, /c: {get: {responses: []}}}"])  # fmt: skip
def test_values_of_wrong_kinds_give_a_policy_without_them(content: str) -> None:
    assert load([Source("a.yaml", write_policy(read(content)).encode())], {}).spec is not None


def test_the_command_writes_a_new_file_only(tmp_path: Path) -> None:
    source, target = tmp_path / "compose.yaml", tmp_path / "policies.yaml"
    source.write_text(COMPOSE)
    arguments = ["init", str(source), "--service", "orders", "-o", str(target)]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.output) == (0, f"{target}: written; next: sidecar check {target}\n")
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.output) == (1, f"{target}: is there already; name a new file\n")
    result = CliRunner().invoke(main, ["init", str(source), "--service", "none"])
    assert result.exit_code == 1
    assert "has no service `none`; it has orders, payments" in result.output
    result = CliRunner().invoke(main, ["init", str(source), "--service", "orders"])
    assert result.output == target.read_text()
