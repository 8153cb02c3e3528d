"""Tests of files for deployment: containers, Kubernetes, dashboards and alerts.

Without a container engine, the tests check that the files are valid and that the project has every name in them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from docs.generate import instruments
from sidecar import __version__
from sidecar.config.files import read
from sidecar.config.load import load
from sidecar.config.process_spec import AdminSpec
from sidecar.core import metrics
from sidecar.core.outcome import FAILURES, GRPC_FAULTS, GRPC_STATUSES, grpc_verdict
from sidecar.demo.shop import CALLS
from sidecar.starter.writer import INBOUND, OUTBOUND
from sidecar.telemetry.metrics.durations import is_error
from sidecar.telemetry.metrics.prometheus import metric_name
from sidecar.telemetry.metrics.registry import Metric

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SIDECARS = sorted(name for name in SERVICES if name.endswith("-sidecar"))
OVERLAY = DEPLOY / "kubernetes" / "overlays" / "production"
KUBERNETES = "1.32"


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


# ----- containers


def test_the_compose_file_is_valid() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        "docker-compose.yml",
    ]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).returncode == 0


@pytest.mark.parametrize("name", SERVICES)
def test_containers_are_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"mem_limit", "cpus"} <= service.keys()
    assert service["image"] == "resilience-sidecar" or not service["user"].startswith("0")
    assert "healthcheck" in service or name in ("collector", "jaeger"), "whose images have no program to ask with"
    if service["image"] != "resilience-sidecar":
        assert re.search(r":v?\d+\.\d+", service["image"]), "a version, not what is latest today"


def test_what_compose_refers_to_exists() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), f"{name}: {source}"
        assert set(service.get("depends_on", ())) <= SERVICES.keys()
        for config in service.get("configs", ()):
            assert config["source"] in COMPOSE["configs"]
        for part in service.get("entrypoint", ()):
            assert not part.startswith("chaos.") or importlib.util.find_spec(part), part
    assert {sidecar.removesuffix("-sidecar").rstrip("-12") for sidecar in SIDECARS} == set(CALLS)
    assert [name for name, service in SERVICES.items() if "chaos" in service.get("profiles", ())] == ["trouble"]


@pytest.mark.parametrize("name", SIDECARS)
def test_each_sidecar_has_policies_that_fit(name: str) -> None:
    service = SERVICES[name]
    beside = service["network_mode"].removeprefix("service:")
    assert name == f"{beside}-sidecar"
    source, target, _ = service["volumes"][0].split(":")
    loaded = load(read(str(ROOT / source)), service["environment"])
    assert not loaded.problems
    assert not loaded.warnings
    spec = loaded.spec
    assert spec is not None
    assert target.startswith(service["command"][1]), "that is where it reads them"
    assert spec.admin is not None
    assert str(spec.admin.address) == service["environment"]["ADMIN"]
    assert SERVICES[beside]["ports"][-1].endswith(f":{spec.admin.address.port}")
    assert f"127.0.0.1:{spec.admin.address.port}/readyz" in service["healthcheck"]["test"][-1]
    (app,) = spec.upstreams["app"].endpoints or ()
    assert app.endswith(SERVICES[beside]["entrypoint"][-1].rpartition(":")[2])
    for called in CALLS[beside.rstrip("-12")]:
        assert any(route.match.host == called and route.listener == "outbound" for route in spec.routes), called
    for upstream in spec.upstreams.values():
        for url in upstream.endpoints or ():
            host, _, port = url.removeprefix("http://").partition(":")
            assert host == "127.0.0.1" or (host in SERVICES and port == str(spec.listeners["inbound"].address.port))
    grace = float(service["stop_grace_period"].removesuffix("s"))
    assert grace > spec.limits.drain_timeout


def test_the_image_has_what_it_copies_and_runs_without_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for source in re.findall(r"^COPY ((?:[\w./-]+ )+)\S+$", text, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path
    assert text.count("--require-hashes") == 2, "the packages, and what builds ours"
    assert "HATCH_BUILD_HOOKS_ENABLE=1 pip wheel" in text, "with the request path compiled"
    final = text[text.rindex("\nFROM ") :]
    assert "gcc" not in final
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", final, re.MULTILINE)
    assert "--from=build" in final
    kept = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {
        part.split("/")[0] for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for part in line.split()
    }
    assert copied == kept
    assert text.count("FROM python:${PYTHON}${DIGEST}") == text.count("\nFROM "), "every stage can be pinned"
    for package in re.findall(r"install-recommends (.*)$", text, re.MULTILINE)[0].split():
        assert re.fullmatch(r'"[\w-]+=\$[A-Z]+"', package), "a version for each package of the system"


def test_the_image_is_built_and_runs_with_what_it_installs() -> None:
    text = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime, building = (
        dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))
        for name in ("runtime.txt", "compiled.txt")
    )
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    for needed in (*project["build-system"]["requires"], *hook["dependencies"]):
        assert re.match(r"[\w-]+", needed)[0].lower() in building, "no isolation: it is there, or the build fails"
    assert runtime.items() <= building.items(), "compiled against what it runs with"
    assert hook["path"] in text
    final = text[text.rindex("\nFROM ") :]
    (command,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', final, re.MULTILINE)
    assert command in project["project"]["scripts"]
    admin = AdminSpec().address
    assert f"http://{admin}/readyz" in final, "the health check asks the admin listener at its default address"
    exposed = {int(port) for port in re.findall(r"^EXPOSE (.*)$", final, re.MULTILINE)[0].split()}
    assert exposed == {INBOUND, OUTBOUND, admin.port}
    assert "nftables" in final, "which `sidecar capture` runs"
    assert final.count("apt-get update") == final.count("rm -rf /var/lib/apt/lists/*") == 1


def test_the_image_lists_what_is_in_it() -> None:
    """A bill of this environment; the schema asks for no more than these members of a component."""
    command = [sys.executable, str(DEPLOY / "sbom.py"), sys.prefix]
    bill = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    found = {each["name"]: each for each in bill["components"]}
    assert found["aiohttp"]["purl"] == f"pkg:pypi/aiohttp@{version('aiohttp')}"
    assert list(found) == sorted(found)


def test_prometheus_scrapes_every_sidecar() -> None:
    config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    targets = job["static_configs"][0]["targets"]
    assert sorted(f"{target.split(':')[0]}-sidecar" for target in targets) == SIDECARS
    assert {target.split(":")[1] for target in targets} == {"9901"}
    assert job["authorization"]["credentials_file"] == SERVICES["prometheus"]["configs"][0]["target"]


def test_the_collector_passes_traces_on() -> None:
    config = yaml.safe_load((DEPLOY / "compose" / "collector.yaml").read_text())
    pipeline = config["service"]["pipelines"]["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) <= config[kind].keys()
    assert config["exporters"]["otlp/jaeger"]["endpoint"].split(":")[0] in SERVICES
    assert "memory_limiter" in pipeline["processors"]
    for name in SIDECARS:
        endpoint = SERVICES[name]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
        assert (
            endpoint
            == "http://collector:" + config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
        )


# ----- alerts and dashboards: every metric and label exists

PROMETHEUS_LABELS = {"job", "instance"}
FUNCTIONS = {
    "sum", "max", "min", "count", "rate", "increase", "by", "or", "on", "and", "vector", "histogram_quantile",
    "label_values",
}  # fmt: skip


@cache
def exported() -> dict[str, set[str]]:
    """Return every name on the metrics page, with its labels."""
    names: dict[str, set[str]] = {"up": set()}
    for name, (kind, labels) in instruments().items():
        page = metric_name(Metric(name, kind, metrics.METRICS[name].unit, "", []))  # type: ignore[arg-type]
        known = {re.sub(r"\W", "_", label) for label in labels} | PROMETHEUS_LABELS
        names[page] = known
        if kind == "histogram":
            names |= {f"{page}_sum": known, f"{page}_count": known, f"{page}_bucket": known | {"le"}}
    return names


def expressions() -> Iterator[tuple[str, str, str]]:
    """Yield the name of each panel or alert, its expression, and the texts that are made of its labels."""
    for group in yaml.safe_load((DEPLOY / "compose" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"], " ".join(rule["annotations"].values())
    board = json.loads((DEPLOY / "compose" / "grafana" / "dashboards" / "sidecar.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"], target["legendFormat"]
    for variable in board["templating"]["list"]:
        yield variable["name"], variable["query"], ""


EXPRESSIONS = list(expressions())


@pytest.mark.parametrize(("name", "expr", "text"), EXPRESSIONS, ids=[name for name, _, _ in EXPRESSIONS])
def test_every_metric_and_label_exists(name: str, expr: str, text: str) -> None:
    known = exported()
    shown = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text))
    for side in re.split(r"\bunless\b", re.sub(r'"[^"]*"', '""', expr)):
        used = {
            label for selector in re.findall(r"\{([^}]*)\}", side) for label in re.findall(r"(\w+)\s*[=!]", selector)
        }
        groupings = re.findall(r"(?:by|on) \(([^)]*)\)", side)
        grouped = {label for grouping in groupings for label in re.split(r",\s*", grouping)}
        rest = re.sub(r"\{[^}]*\}|(?:by|on) \([^)]*\)|\[[^\]]*\]|, \w+\)$", " ", side)
        metrics = set(re.findall(r"\b[a-z]\w+", rest)) - FUNCTIONS
        assert metrics
        assert metrics <= known.keys(), metrics - known.keys()
        for metric in metrics:
            labels = known[metric] | PROMETHEUS_LABELS
            assert used | grouped <= labels, f"{metric} has no {used | grouped - labels}"
            assert shown <= (grouped or labels), f"{shown - grouped}: gone after the grouping"


def selected(selector: str, labels: dict[str, str]) -> bool:
    """True if a series with these labels is selected, by Prometheus' rules: anchored, and a missing label is empty."""
    return all(
        (re.fullmatch(value, labels.get(name, "")) is not None) == (operator == "=~")
        for name, operator, value in re.findall(r'(\w+)(=~|!~)"([^"]*)"', selector.replace("$instance", ".*"))
    )


@pytest.mark.parametrize("name", ["ErrorsHigh", "Errors A"])
def test_errors_are_those_of_the_page(name: str) -> None:
    (expr,) = (expr for each, expr, _ in EXPRESSIONS if each == name)
    (selector,) = (found for found in re.findall(r"\{([^}]*)\}", expr) if "status_code" in found)
    for status in (0, 101, 200, 304, 400, 404, 499, 500, 503):
        for reason in ("", *(code for code, f in FAILURES.items() if f.origin != "client" or status < 500)):
            labels = {"http_response_status_code": str(status)} if status else {}
            error = reason or (str(status) if status >= 500 else "")
            labels |= {"error_type": error} if error else {}
            assert selected(selector, labels) is is_error(status, reason), (status, reason)
    for code, name in enumerate(GRPC_STATUSES):
        for reason in ("", "rate_limited", "breaker_open"):
            error = reason or ("" if code not in GRPC_FAULTS else name.upper())
            labels = {"http_response_status_code": "200", "rpc_response_status_code": name.upper()}
            labels |= {"error_type": error} if error else {}
            assert selected(selector, labels) is is_error(grpc_verdict(code), reason), (name, reason)


@pytest.mark.parametrize(
    ("metric", "observed"),
    [("sidecar_breaker_", "sidecar_breaker_observed"), ("sidecar_retry_budget_", "sidecar_retry_budget_observed")],
)
def test_what_only_observes_wakes_nobody_and_is_no_red_number(metric: str, observed: str) -> None:
    judged = [expr for _, expr, _ in EXPRESSIONS if metric in expr and re.search(r"[<>=] *[0-9]", expr)]
    assert len(judged) >= 2
    for expr in judged:
        assert re.search(rf"unless on \([^)]+\) {observed}(?:\{{[^}}]*\}})? == 1", expr), expr


def test_the_alerts_that_matter_are_there() -> None:
    names = {name for name, _, _ in EXPRESSIONS}
    assert {"BreakerOpen", "RetryBudgetExhausted", "EndpointEjected", "TelemetryDropped", "LogDropped"} <= names
    assert {"LimitsRefuse", "LimitKeysExhausted", "StoreAway", "WorkersRestart"} <= names


# ----- Kubernetes

MANIFESTS = sorted(
    path
    for directory in ("base", "components/discovery")
    for path in (DEPLOY / "kubernetes" / directory).glob("*.yaml")
    if path.name not in ("kustomization.yaml", "account.yaml")
)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_sidecar_is_a_native_one() -> None:
    (deployment,) = documents(DEPLOY / "kubernetes" / "base" / "deployment.yaml")
    pod = deployment["spec"]["template"]["spec"]
    (sidecar,) = pod["initContainers"]
    loaded = load(read(str(DEPLOY / "kubernetes" / "base" / "policies")), {})
    assert not loaded.problems
    assert not loaded.warnings
    spec = loaded.spec
    assert spec is not None
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["args"] == ["run", sidecar["volumeMounts"][0]["mountPath"]]
    ports = {port["name"]: port["containerPort"] for port in sidecar["ports"]}
    assert spec.admin is not None
    assert ports == {"http": spec.listeners["inbound"].address.port, "admin": spec.admin.address.port}
    assert spec.listeners["outbound"].address.is_loopback
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert sidecar[probe]["httpGet"]["port"] == "admin"
    assert sidecar["livenessProbe"]["httpGet"]["path"] == "/livez"
    slept = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > slept + spec.limits.drain_timeout + 5
    for container in (sidecar, *pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert "memory" in container["resources"]["limits"]
    token = next(mount for mount in sidecar["volumeMounts"] if mount["name"] == "admin-token")
    assert spec.admin.token.file == f"{token['mountPath']}/token"  # type: ignore[union-attr]
    for called in CALLS[pod["containers"][0]["command"][3]]:
        assert any(route.match.host == called for route in spec.routes)


def test_selectors_select() -> None:
    (deployment,) = documents(DEPLOY / "kubernetes" / "base" / "deployment.yaml")
    given = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == given
    for service in documents(DEPLOY / "kubernetes" / "base" / "service.yaml"):
        assert service["spec"]["selector"].items() <= given.items()
        named = {port["name"] for port in deployment["spec"]["template"]["spec"]["initContainers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_the_overlay_builds() -> None:
    built = subprocess.run(["kubectl", "kustomize", OVERLAY], capture_output=True, text=True, check=True).stdout
    kinds = {}
    for document in yaml.safe_load_all(built):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        kinds[document["kind"]] = document
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["image"].endswith(f":{__version__}")
    assert pod["initContainers"][0]["resources"]["requests"]["cpu"] == "250m"
    assert pod["initContainers"][0]["restartPolicy"] == "Always"
    assert kinds["ConfigMap"]["data"].keys() == {"orders.yaml"}
    policy = kinds["NetworkPolicy"]["spec"]
    assert policy["ingress"][0]["from"][0]["podSelector"] == {"matchLabels": {"app.kubernetes.io/part-of": "shop"}}
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "shop", "by which the network policies know them"


# ----- pipelines

CI = DEPLOY / "ci"


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-actions", "github/action.yml"),
        ("vendor.github-workflows", "github/policies.yml"),
        ("vendor.gitlab-ci", "gitlab/policies.gitlab-ci.yml"),
    ],
)
def test_files_of_pipelines_are_valid(schema: str, file: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(CI / file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_pipelines_say_what_a_change_of_policies_means(tmp_path: Path) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)

    program = tmp_path / "sidecar"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sidecar "$@"\n')
    program.chmod(0o755)
    policy = tmp_path / "policies" / "orders.yaml"
    policy.parent.mkdir()
    text = (ROOT / "policies" / "cors.yaml").read_text()
    policy.write_text(text)
    author = ("-c", "user.name=x", "-c", "user.email=x@x.example")
    run("git", "init", "-q", "-b", "main")
    run("git", "add", "policies")
    assert run("git", *author, "commit", "-qm", "policies").returncode == 0
    policy.write_text(
        text.replace("request: 2s", "request: 9s").replace("defaults:", "defaults:\n  retry: {methods: [POST]}")
    )
    done = run(str(CI / "judge-policies.sh"), "policies", "main")
    assert done.returncode == 1, done.stderr  # lint finds the retried POST
    change = (tmp_path / "build" / "policies" / "change.md").read_text()
    assert "| ⚠️ | route prices | worst latency 800ms to 9s |" in change
    assert "| ⚠️ | route prices | POST now retried |" in change
    log = json.loads((tmp_path / "build" / "policies" / "lint.sarif").read_text())
    assert "R020" in {each["ruleId"] for each in log["runs"][0]["results"]}
    policy.write_text(text)
    assert run(str(CI / "judge-policies.sh"), "policies", "main").returncode == 0
    assert "nothing changes in behaviour" in (tmp_path / "build" / "policies" / "change.md").read_text()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_the_component_of_discovery_gives_the_pod_its_account(tmp_path: Path) -> None:
    base, component = (
        os.path.relpath(DEPLOY / "kubernetes" / name, tmp_path) for name in ("base", "components/discovery")
    )
    kustomization = {"kind": "Kustomization", "resources": [base], "components": [component]}
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"apiVersion": "kustomize.config.k8s.io/v1beta1", **kustomization})
    )
    built = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=True).stdout
    found = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(built)}
    for document in found.values():
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    pod = found["Deployment", "orders"]["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("orders", True)
    assert "NODE_NAME" in {each["name"] for each in pod["initContainers"][0]["env"]}
    rules = found["Role", "sidecar-discovery"]["rules"]
    assert {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]} in rules
    assert found["ServiceAccount", "orders"]["metadata"]["namespace"] == "shop"
