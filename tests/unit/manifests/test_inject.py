"""Tests of manifests with the sidecar, and without it again."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from sidecar import __version__
from sidecar.commands import main
from sidecar.manifests import component, pod
from sidecar.manifests.documents import ManifestError, split
from sidecar.manifests.inject import TEMPLATES, inject, undo
from sidecar.manifests.pod import Options
from tests.support.cases import each

DEPLOYMENT = """\
# What orders is.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: orders
  annotations: &notes {team: "shop", since: 2026-01-01}
spec:
  selector: {matchLabels: {app: orders}}
  template:
    metadata:
      labels: {app: orders}
      annotations: *notes
    spec:
      initContainers: [{name: migrate, image: "orders:1"}]
      containers:
        - name: orders
          image: "orders:1"
          args: ["0644", yes, 'no', 1e3, 0o17]
          command:
            - sh
            - -c
            - |+
              echo a
                b

      volumes:
        - {name: data, emptyDir: {}, defaultMode: 0644}
"""
KUBERNETES = "1.32"
BOMB = "a: &a [x]\n" + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in pairwise("abcdefgh"))
"""Lists of ten aliases each."""
SERVICE = """\
kind: Service      # stays as it is written
metadata:   {name: orders}
"""
OTHERS = {
    "Pod": "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: a}]}}\n",
    "CronJob": "kind: CronJob\nmetadata: {name: a}\n"
    "spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: a}]}}}}}\n",
    **{
        kind: f"kind: {kind}\nmetadata: {{name: a}}\nspec: {{template: {{spec: {{containers: [{{name: a}}]}}}}}}\n"
        for kind in ("StatefulSet", "DaemonSet", "ReplicaSet", "Job")
    },
    "volumes": "kind: Job\nmetadata: {generateName: a-}\n"
    "spec:\n  template:\n    metadata: {}\n    spec: {volumes: [], initContainers: [], containers: [{name: a}]}\n",
    "merged": "x: &base {containers: [{name: a}], volumes: [{name: v}]}\nkind: Job\nmetadata: {name: a}\n"
    "spec: {template: {spec: {<<: *base, restartPolicy: Never}}}\n",
}


def parse(text: str) -> list[Any]:
    return list(yaml.safe_load_all(text))


def meaning(value: Any) -> Any:
    """Return a value without empty lists and mappings, which mean the same as none."""
    if isinstance(value, dict):
        found = {key: meaning(each) for key, each in value.items()}
        return {key: each for key, each in found.items() if each not in ({}, [])}
    return [meaning(each) for each in value] if isinstance(value, list) else value


def spec_of(root: Any) -> Any:
    for key in TEMPLATES[root["kind"]]:
        root = root[key]
    return root["spec"]


def test_a_workload_gets_the_sidecar_first_and_all_else_stays() -> None:
    source = f"{DEPLOYMENT}---\n{SERVICE}"
    result = inject(source, Options(image="sidecar:2", admin_port=9000))
    assert result.changed == ["Deployment/orders"]
    assert result.notes == []
    assert result.text.startswith("# What orders is.\n")
    assert result.text.endswith(f"---\n{SERVICE}")
    before, after = parse(source)[0], parse(result.text)[0]
    spec = spec_of(after)
    assert [each["name"] for each in spec["initContainers"]] == ["sidecar", "migrate"]
    added = spec["initContainers"].pop(0)
    assert (added["image"], added["restartPolicy"], added["args"]) == ("sidecar:2", "Always", ["run", "/etc/sidecar"])
    assert [added[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")] == [
        9000
    ] * 3
    assert spec["volumes"].pop() == {
        "name": pod.VOLUME, "projected": {"sources": [{"configMap": {"name": "orders-policies"}}]},
    }  # fmt: skip
    assert after["spec"]["template"]["metadata"]["annotations"].pop(pod.INJECTED) == __version__
    assert after == before
    assert "args: [\"0644\", yes, 'no', 1e3, 0o17]" in result.text
    assert "defaultMode: 0644" in result.text
    assert "&" not in result.text


CAPTURED = Options(capture_port=15001)


def test_capture_redirects_connections_before_the_sidecar_starts() -> None:
    first, sidecar, own = spec_of(parse(inject(DEPLOYMENT, CAPTURED).text)[0])["initContainers"]
    assert (first["name"], first["args"]) == ("sidecar-capture", ["capture", "--apply", "--uid", "65532", pod.POLICIES])
    assert "restartPolicy" not in first
    assert first["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert (first["securityContext"]["runAsUser"], first["securityContext"]["runAsNonRoot"]) == (0, False)
    assert first["volumeMounts"] == sidecar["volumeMounts"]
    assert sidecar["ports"] == [{"name": "sidecar-capture", "containerPort": 15001}]
    assert str(sidecar["securityContext"]["runAsUser"]) == first["args"][3]
    assert own["name"] == "migrate"


@each([Options(), CAPTURED])
def test_an_injected_deployment_is_valid(options: Options) -> None:
    source = DEPLOYMENT.replace(", since: 2026-01-01", "").replace(", yes, 'no', 1e3, 0o17", "")
    source = source.replace(", defaultMode: 0644", "")
    (document,) = parse(inject(source, options).text)
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@each([DEPLOYMENT, *OTHERS.values(), f"{DEPLOYMENT}---\n{SERVICE}---\n{OTHERS['CronJob']}"])
def test_twice_is_once_and_undo_gives_the_meaning_back(source: str) -> None:
    once = inject(source, Options())
    assert once.changed
    assert inject(once.text, Options()).text == once.text
    back = undo(once.text)
    assert back.changed == once.changed
    assert meaning(parse(back.text)) == meaning(parse(source))
    assert "sidecar" not in back.text
    assert undo(back.text).text == back.text
    captured = inject(once.text, CAPTURED).text
    assert captured == inject(source, CAPTURED).text == inject(captured, CAPTURED).text
    assert inject(captured, Options()).text == once.text
    assert undo(captured) == back


def test_another_version_takes_the_place_of_the_first() -> None:
    old = inject(DEPLOYMENT, Options(image="sidecar:1", config_maps=("old",))).text
    assert inject(old, Options(image="sidecar:2")).text == inject(DEPLOYMENT, Options(image="sidecar:2")).text


def test_a_file_without_workloads_stays_as_it_is() -> None:
    for source in (
        "",
        "---\n",
        "# nothing\n",
        SERVICE,
        f"{SERVICE}---\n---\nkind: Namespace\n...\n",
        "[1, 2]\n",
        "text\n",
    ):
        for result in (inject(source, Options()), undo(source)):
            assert result == (source, [], [])


def test_json_stays_json() -> None:
    containers = '[{"name": "a", "args": ["yes", "\\u00e9"]}]'
    source = f'{{"kind": "Pod", "metadata": {{"name": "a"}}, "spec": {{"containers": {containers}}}}}\n'
    once = inject(source, Options()).text
    found = parse(once)[0]
    assert found["spec"]["containers"] == [{"name": "a", "args": ["yes", "é"]}]
    assert found["spec"]["initContainers"][0]["name"] == "sidecar"
    assert once.startswith('{\n  "kind": "Pod"')
    assert inject(once, Options()).text == once
    assert parse(undo(once).text) == parse(source)


def test_the_items_of_a_list_are_workloads() -> None:
    job = "kind: Job, metadata: {name: a}, spec: {template: {spec: {containers: [{name: a}]}}}"
    source = f"kind: List\nitems:\n  - {{kind: Service}}\n  - {{{job}}}\n"
    result = inject(source, Options())
    assert result.changed == ["Job/a"]
    assert undo(result.text).changed == ["Job/a"]
    assert inject("kind: List\nitems: [{kind: Service}]\n", Options()).text == "kind: List\nitems: [{kind: Service}]\n"


def config_map(name: str, label: str, admin: str = "0.0.0.0:9901", listeners: str = "{}") -> str:
    policies = f"listeners: {listeners}\nadmin: {{address: '{admin}'}}"
    data = f"data: {{a.yaml: {json.dumps(policies)}}}" if admin else "data: {}"
    return f"kind: ConfigMap\nmetadata: {{name: {name}, labels: {{{pod.POLICIES_OF}: {label}}}}}\n{data}\n"


def test_policies_come_from_labels_and_options() -> None:
    text = "---\n".join([DEPLOYMENT, config_map("one", "orders"), config_map("two", "all"), config_map("no", "other")])
    result = inject(text, Options(config_maps=("first", "two")))
    sources = spec_of(parse(result.text)[0])["volumes"][-1]["projected"]["sources"]
    assert [each["configMap"]["name"] for each in sources] == ["first", "two", "one"]


@each([
    ("127.0.0.1:9901", 'its policies have `admin` on 127.0.0.1:9901, where no probe comes; write "0.0.0.0:9901"'),
    ("0.0.0.0:9902", "its policies have `admin` on port 9902; give --admin-port 9902"),
    ("", 'its policies have no `admin`, which the probes ask; add admin: {address: "0.0.0.0:9901"}'),
])  # fmt: skip
def test_an_admin_listener_that_no_probe_reaches_is_told(case: tuple[str, str]) -> None:
    text = f"{DEPLOYMENT}---\n{config_map('one', 'orders', case[0])}"
    assert inject(text, Options()).notes == [f"2: Deployment/orders: {case[1]}"]


@each([
    ('{address: "127.0.0.1:15001", original_destination: true}', ""),
    (
        '{address: "127.0.0.1:15002", original_destination: true}',
        "its policies take redirected connections on port 15002; give --capture-port 15002",
    ),
    (
        '{address: "127.0.0.1:15001"}',
        "its policies have no listener for redirected connections; "
        'add outbound: {address: "127.0.0.1:15001", original_destination: true}',
    ),
])  # fmt: skip
def test_a_listener_that_no_connection_reaches_is_told(case: tuple[str, str]) -> None:
    text = config_map("one", "orders", listeners=f"{{outbound: {case[0]}}}")
    notes = inject(f"{DEPLOYMENT}---\n{text}", CAPTURED).notes
    assert notes == ([f"2: Deployment/orders: {case[1]}"] if case[1] else [])


@each(["spec: {securityContext: {runAsUser: 65532}, containers: [{name: a}]}",
       "spec: {containers: [{name: a}, {name: b, securityContext: {runAsUser: 65532}}]}"])  # fmt: skip
def test_a_service_with_the_user_of_the_sidecar_is_told(spec: str) -> None:
    source = f"kind: Pod\nmetadata: {{name: orders}}\n{spec}\n"
    assert inject(source, Options()).notes == []
    (note,) = inject(source, CAPTURED).notes
    assert "runs as user 65532, whose connections are not redirected" in note


@each([
    (DEPLOYMENT.replace("{team", f'{{{pod.INJECT}: "false", team'), "the annotation resilience-sidecar/inject: false"),
    (DEPLOYMENT.replace("name: migrate", "name: sidecar"), "a container `sidecar` of its own; rename that"),
    ("kind: Pod\nmetadata: {name: orders}\nspec: {}\n", "it has no containers"),
    ("kind: Pod\nspec: {hostNetwork: true, containers: [{name: a}]}\n", "capture would redirect the whole node"),
])  # fmt: skip
def test_what_is_left_as_it_is(case: tuple[str, str]) -> None:
    result = inject(case[0], CAPTURED)
    assert (result.text, result.changed) == (case[0], [])
    assert case[1] in result.notes[0]


@each([
    ("a: [", "1:5: is no YAML: "),
    ("kind: Pod\n\ta: b\n", "2:1: is no YAML: "),
    ("kind: Pod\n---\na: *b\n", "3:4: is no YAML: "),
    ("a: 1\nb: \x00", "2:4: is no YAML"),
    (BOMB + "kind: Pod\nspec: {containers: [{name: a}]}\n", "1:1: its aliases stand for more"),
    ("kind: Pod\nspec: {containers: &a [{name: b, c: *a}]}\n", "1:1: its aliases stand for more"),
])  # fmt: skip
def test_what_cannot_be_read_or_written_is_said_with_its_place(case: tuple[str, str]) -> None:
    with pytest.raises(ManifestError) as raised:
        inject(case[0], Options())
    assert case[1] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_documents_of_a_file_are_the_file() -> None:
    text = f"%YAML 1.1\n---\n# a\n{DEPLOYMENT}# b\n\n# c\n--- # d\n{SERVICE}...\n---\n- x\n# e\n"
    assert "".join(each.text for each in split(text)) == text


@each([None, 15001])
def test_the_component_says_the_same_as_inject(port: int | None) -> None:
    options = Options(config_maps=("policies",), capture_port=port)
    files = component.files(options)
    patches = parse(files["kustomization.yaml"])[0]["patches"]
    assert {each["path"] for each in patches} == files.keys() - {"kustomization.yaml"}
    for kind in component.KINDS:
        patch = parse(files[f"{kind.lower()}.yaml"])[0]
        spec = spec_of(patch)
        injected = spec_of(parse(inject(OTHERS.get(kind, DEPLOYMENT), options).text)[0])
        assert spec["initContainers"] == injected["initContainers"][: len(spec["initContainers"])]
        assert spec["volumes"][0] == injected["volumes"][-1]


@each([("sidecar", Options()), ("sidecar-captured", Options(capture_port=15001))])
def test_the_components_in_deploy_are_made_by_inject(case: tuple[str, Options]) -> None:
    name, options = case
    directory = Path(__file__).parents[3] / "deploy/kubernetes/components" / name
    assert {path.name: path.read_text() for path in directory.iterdir()} == component.files(options)


@each([
    (("-",), DEPLOYMENT, 0, "restartPolicy: Always", ""),
    (("--capture", "--capture-port", "15002", "-"), DEPLOYMENT, 0, "containerPort: 15002", ""),
    (("--undo", "-"), DEPLOYMENT, 0, DEPLOYMENT, "-: no workload has the sidecar"),
    (("-",), SERVICE, 0, SERVICE, "-: no workload to add the sidecar to"),
    (("-",), "a: [", 1, "", "-:1:5: is no YAML"),
    (("none.yaml",), "", 1, "", "none.yaml: No such file or directory; name a file that can be read"),
    ((), "", 2, "", "FILE: is missing; name a file of manifests, or - for standard input"),
    (("-", "--component", "a"), "", 2, "", "--component: stands alone; leave FILE and --undo out"),
    (("--component", "/proc/none"), "", 1, "", "/proc/none: No such file or directory; name a directory that can"),
])  # fmt: skip
def test_the_command(case: tuple[tuple[str, ...], str, int, str, str]) -> None:
    arguments, source, code, output, errors = case
    result = CliRunner().invoke(main, ["inject", *arguments], input=source, prog_name="sidecar")
    assert result.exit_code == code
    assert output in result.stdout
    assert errors in result.stderr
