"""Istio's access rules: RequestAuthentication, AuthorizationPolicy and PeerAuthentication.

Where Istio differs: a RequestAuthentication refuses invalid tokens and lets requests without one pass; a policy with
ALLOW refuses what no such policy allows; DENY counts before ALLOW.  Policies choose workloads by labels:

1. Those of a gateway hold for the routes of its listeners.
2. Those of a workload hold for a route of their own, `inbound`, beside the workload.  They hold for the other routes to
   it as well, as far as a proxy on the way can tell.
3. Labels of a workload are those of its Service in the file, or else `app` with the name of the service.
4. Where it is unknown whether a policy holds, it refuses all that it might refuse.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sidecar.imports.access.protection import REFUSED
from sidecar.imports.access.rules import Access, Forward, Not, Some, Tree
from sidecar.imports.access.tokens import Tokens, forward_of, jwks_keys
from sidecar.imports.draft import Draft, Value, put
from sidecar.imports.fields import duration_of
from sidecar.imports.istio.conditions import AHEAD, INBOUND, Conditions, Place
from sidecar.imports.kubernetes import name_of, namespace_of
from sidecar.imports.source import Part

KINDS: Final = ("RequestAuthentication", "AuthorizationPolicy", "PeerAuthentication")
ROOT: Final = "istio-system"
"""Namespace whose policies hold for all, unless the mesh names another one."""
NAMES: Final = ("app", "app.kubernetes.io/name", "k8s-app", "name")
"""Labels that usually have the name of a service."""
MESH: Final = "mesh"
DRY_RUN: Final = "istio.io/dry-run"
"""Annotation of a policy that refuses nothing."""
TOKEN_PARAMETER: Final = "access_token"  # noqa: S105 - the name of a parameter
FIRST_PORT: Final = 15006
Labels = dict[str, str]
YES, NO, MAYBE = "yes", "no", "maybe"


class Policy(NamedTuple):
    """Object with access rules."""

    part: Part
    namespace: str
    labels: Labels
    """Labels of the workloads that it holds for; empty for all of the namespace."""
    targets: tuple[tuple[str, str], ...]
    """Kind and name of each object that it names in place of labels."""


class Workload(NamedTuple):
    """Pods to which requests go."""

    name: str
    namespace: str
    labels: Labels
    is_gateway: bool = False
    is_rest: bool = False
    """True for all pods of a namespace that no labels of a policy name."""


class Policies:
    """Access rules of a file."""

    def __init__(self, draft: Draft, objects: dict[str, list[Part]]) -> None:
        self._draft = draft
        self._tokens = Tokens(draft)
        self._known = {kind: [_policy(each) for each in objects[kind]] for kind in KINDS}
        self._gateways = {name_of(each): _labels(each.get("spec", "selector")) for each in objects["Gateway"]}
        self._services = {
            (_namespace(namespace_of(each)), name_of(each)): _labels(each.get("spec", "selector"))
            for each in objects["Service"]
        }
        self._ports = {
            (_namespace(namespace_of(each)), name_of(each)): each.items("spec", "ports") for each in objects["Service"]
        }
        self._identities: dict[int, tuple[str, str]] = {}
        """Identity and issuer of each rule for tokens, by its line; empty ones for a rule without an equal."""

    @property
    def are_there(self) -> bool:
        """True if the file has access rules."""
        return any(self._known.values())

    # ----- workloads

    def gateway(self, name: str) -> Workload:
        """Return the workload of a gateway."""
        return Workload(name, ROOT, self._gateways.get(name, {"istio": "ingressgateway"}), is_gateway=True)

    def service(self, name: str, namespace: str, version: Labels | None = None) -> Workload:
        """Return the workload of a service."""
        known = self._services.get((_namespace(namespace), name))
        labels = known if known else dict.fromkeys(NAMES, name)
        return Workload(name, _namespace(namespace), {**labels, **(version or {})})

    def workloads(self) -> list[tuple[Workload, int]]:
        """Return the workloads that policies name, each with the line of the first one."""
        found: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Workload, int]] = {}
        for policy in (each for kind in KINDS for each in self._known[kind]):
            if self._is_of_gateway(policy):
                continue
            names = [name for kind, name in policy.targets if kind in ("Service", "ServiceEntry")]
            for name in names or [""]:
                labels = dict.fromkeys(NAMES, name) if name else policy.labels
                told = name or next((labels[each] for each in NAMES if each in labels), "")
                told = told or "-".join(labels.values()) or policy.namespace
                workload = Workload(told, policy.namespace, labels, is_rest=not labels)
                key = (policy.namespace, tuple(sorted(labels.items())))
                found.setdefault(key, (workload, policy.part.line))
        return list(found.values())

    def _is_of_gateway(self, policy: Policy) -> bool:
        if any(kind in ("Gateway", "GatewayClass") for kind, _ in policy.targets):
            return True
        labels = policy.labels
        return bool(labels) and (
            any(each and labels.items() <= each.items() for each in self._gateways.values())
            or any("gateway" in labels.get(key, "") for key in ("istio", *NAMES))
        )

    def _holds(self, policy: Policy, workload: Workload) -> str:
        """Return whether a policy holds for a workload: `YES`, `NO` or `MAYBE`."""
        is_root = policy.namespace == ROOT
        if policy.targets:
            kinds = ("Gateway",) if workload.is_gateway else ("Service", "ServiceEntry")
            if any(kind == "GatewayClass" for kind, _ in policy.targets):
                return MAYBE if workload.is_gateway else NO
            is_named = any(kind in kinds and name == workload.name for kind, name in policy.targets)
            return (
                YES if is_named and policy.namespace in (workload.namespace, "default") else MAYBE if is_named else NO
            )
        if workload.is_gateway:
            if not policy.labels:
                return YES if is_root else NO
            if not self._is_of_gateway(policy):
                return NO
            return _selects(policy.labels, workload.labels)
        if self._is_of_gateway(policy) or not (is_root or policy.namespace == workload.namespace):
            return NO
        if not policy.labels:
            return YES
        return NO if workload.is_rest else _selects(policy.labels, workload.labels)

    # ----- access

    def add(self, access: Access, workload: Workload, kind: str, *, is_changed: bool = False) -> None:
        """Add the rules of a workload at a place: `GATEWAY`, `INBOUND` or `AHEAD`."""
        identities, line = self._add_tokens(access, workload, kind)
        issuers = tuple(issuer for _, issuer in identities)
        conditions = Conditions(Place(kind, issuers, is_changed))
        denied: list[Tree] = []
        allowed: list[Tree] = []
        may_refuse: Part | None = None
        has_allow = False
        for policy in self._known["AuthorizationPolicy"]:
            holds, spec = self._holds(policy, workload), policy.part.get("spec")
            action = spec.text("action") if spec is not None else ""
            is_dry = policy.part.text("metadata", "annotations", DRY_RUN) == "true"
            if holds == NO or ((action == "AUDIT" or is_dry) and self._audit(policy, "dry run" if is_dry else action)):
                continue
            rules = [conditions.rule(each) for each in (spec.items("rules") if spec is not None else [])]
            if action == "DENY":
                denied += rules
            elif action not in ("", "ALLOW"):
                policy.part.findings.lose(policy.part.line, name_of(policy.part), f"`{action}`: {REFUSED}")
                policy.part.take()
                access.refuse(policy.part.line, f"AuthorizationPolicy {name_of(policy.part)}")
            elif holds == MAYBE:
                may_refuse = policy.part
            else:
                has_allow = True
                allowed += rules
        if has_allow:
            access.demand(Some(tuple(allowed)))
            if not allowed:
                access.refuse(self._first_line(workload), "AuthorizationPolicy")
        elif may_refuse is not None:
            what = f"AuthorizationPolicy {name_of(may_refuse)}"
            why = f"may hold for `{workload.name}`, whose labels are not in the file; all its requests are refused here"
            self._draft.findings.lose(may_refuse.line, what, why)
            access.refuse(may_refuse.line, what)
        access.demand(Not(Some(tuple(denied))))
        is_strict = kind == INBOUND and self._add_peers(access, workload, issuers)
        if conditions.needs_certificate and not is_strict:
            self._add_mesh(access, line or 1, optional=True)

    def _first_line(self, workload: Workload) -> int:
        policies = self._known["AuthorizationPolicy"]
        return next((each.part.line for each in policies if self._holds(each, workload) == YES), 1)

    @staticmethod
    def _audit(policy: Policy, what: str) -> bool:
        why = f"`{what}` refuses nothing; write `mode: observe`"
        policy.part.findings.lose(policy.part.line, name_of(policy.part), why)
        policy.part.take()
        return True

    def _add_mesh(self, access: Access, line: int, *, optional: bool) -> None:
        """Ask for a certificate of the mesh."""
        block = {"certificate": {"spiffe": Value("spiffe://*/ns/*/sa/*", "workloads of the mesh")}}
        access.identify([self._draft.identity(MESH, block)], line, optional=optional)

    def _add_peers(self, access: Access, workload: Workload, issuers: tuple[str, ...]) -> bool:
        """Ask for a certificate if the workload takes no requests without; return True if it does."""
        strict = [
            each for each in self._known["PeerAuthentication"]
            if self._holds(each, workload) != NO and _is_strict(each.part)
        ]  # fmt: skip
        for each in strict[:1]:
            each.part.findings.differ(
                each.part.line, name_of(each.part), "asks for certificates: add `tls: {cert, key, client_ca}` to the "
                "listener; without it all requests are refused")  # fmt: skip
            if issuers:
                access.refuse(each.part.line, "certificates of the mesh beside tokens")
            else:
                self._add_mesh(access, each.part.line, optional=False)
        return bool(strict)

    # ----- tokens

    def _add_tokens(self, access: Access, workload: Workload, kind: str) -> tuple[list[tuple[str, str]], int]:
        """Ask for tokens; return identity and issuer of each rule, and the line of the first one."""
        found: list[tuple[str, str]] = []
        line = 0
        for policy in self._known["RequestAuthentication"]:
            holds = self._holds(policy, workload)
            if holds == NO:
                continue
            for rule in policy.part.items("spec", "jwtRules"):
                one = self._identity(policy, rule)
                line = line or rule.line
                if holds == MAYBE or not one[0]:
                    access.refuse(rule.line, f"RequestAuthentication {name_of(policy.part)}")
                elif one not in found:
                    found.append(one)
            if holds == MAYBE:
                why = f"may hold for `{workload.name}`, whose labels are not in the file; its requests are refused here"
                self._draft.findings.lose(policy.part.line, f"RequestAuthentication {name_of(policy.part)}", why)
        names = [name for name, _ in found]
        if kind == AHEAD and names:
            access.identify(names, line, optional=True, forward=Forward())
        elif names:
            self._tokens.ask(access, names, line, optional=True)
        return found, line

    def _identity(self, policy: Policy, part: Part) -> tuple[str, str]:
        """Return identity and issuer of a rule; empty ones for one without an equal."""
        if part.line not in self._identities:
            self._identities[part.line] = self._new_identity(policy, part)
        return self._identities[part.line]

    def _new_identity(self, policy: Policy, part: Part) -> tuple[str, str]:
        draft = self._draft
        issuer = part.text("issuer")
        why = "" if issuer else "has no issuer"
        for key in ("fromParams", "fromCookies"):
            if part.items(key):
                why = f"tokens are read from `Authorization` alone here, not by `{key}`"
        headers = part.items("fromHeaders")
        for each in headers:
            if each.text("name").lower() != "authorization" or each.text("prefix").strip().lower() != "bearer":
                why = f"tokens are read from `Authorization: Bearer` alone here, not from `{each.text('name')}`"
        block: dict[str, Any] = {"issuer": draft.value(issuer, part.line)}
        if audiences := part.items("audiences"):
            block["audiences"] = draft.value([each.text() for each in audiences], audiences[0].line)
        block["leeway"] = Value("60s", "Istio's")
        if (url := part.get("jwksUri") or part.get("jwks_uri")) is not None:
            put(block, "keys.url", draft.value(url.text(), url.line))
        elif part.get("jwks") is not None:
            why = why or jwks_keys(draft, part.get("jwks"), block, is_file=False)
        if (timeout := part.get("timeout")) is not None:
            put(block, "keys.timeout", duration_of(draft, timeout))
        spaced = [each.text() for each in part.items("spaceDelimitedClaims")]
        if spaced:
            part.differ(f"a text of several words is one value here, but for scope and permission: {', '.join(spaced)}")
        claims = [(each, each.text("claim"), each.text("header")) for each in part.items("outputClaimToHeaders")]
        parameters = () if headers else ((TOKEN_PARAMETER, part.line),)
        if parameters:
            part.differ(f"tokens in the query parameter `{TOKEN_PARAMETER}` are not read here, and taken out")
        forward = forward_of(part, part.get("forwardOriginalToken"), part.get("outputPayloadToHeader"), claims,
                             parameters)  # fmt: skip
        if why:
            part.lose(f"{why}; {REFUSED}")
            return "", ""
        return self._tokens.identity(name_of(policy.part) or "tokens", block, forward), issuer

    # ----- routes of workloads

    def add_inbound(self) -> None:
        """Add a route for each workload that policies name."""
        draft = self._draft
        for at, (workload, line) in enumerate(self.workloads()):
            access = Access(draft)
            self.add(access, workload, INBOUND)
            if access.is_open:
                continue
            name = workload.name or "workloads"
            listener = draft.listener(f"inbound-{name}", line)
            told = f"requests to {'all pods' if workload.is_rest else f'the pods of {name}'}; write the right address"
            draft.listeners[listener]["address"] = Value(f"0.0.0.0:{FIRST_PORT + at}", told)
            port = self._port(workload)
            upstream = draft.upstream(f"{name}-beside", {
                "endpoints": [Value(f"http://127.0.0.1:{port or 8080}", "the service beside the sidecar" if port else
                                    "the service beside the sidecar; write its port")],
            })  # fmt: skip
            keys: dict[str, Any] = {"listener": listener, "upstream": draft.value(upstream, line)}
            put(keys, "timeout.request", Value("off", "Istio has no limit unless one is stated"))
            access.apply(keys)
            draft.route(listener, line, keys)

    def _port(self, workload: Workload) -> int | None:
        """Return the port of a workload's pods, if its Service is in the file."""
        for port in self._ports.get((workload.namespace, workload.name), [])[:1]:
            spelt = port.text("targetPort") or port.text("port")
            return int(spelt) if spelt.isdigit() and len(spelt) < 6 else None
        return None


def _policy(part: Part) -> Policy:
    labels = _labels(part.get("spec", "selector", "matchLabels"))
    found = part.items("spec", "targetRefs")
    if (one := part.get("spec", "targetRef")) is not None:
        found = [*found, one]
    for each in found:
        each.label("group", "namespace")
    targets = tuple((each.text("kind"), each.text("name")) for each in found)
    return Policy(part, _namespace(namespace_of(part)), labels, targets)


def _labels(part: Part | None) -> Labels:
    return {} if part is None else {key: value.text() for key, value in part.members()}


def _namespace(name: str) -> str:
    return name or "default"


def _selects(labels: Labels, of_pods: Labels) -> str:
    """Return whether labels select pods of which some labels are known."""
    if any(of_pods.get(key, value) != value for key, value in labels.items()):
        return NO
    return YES if labels.keys() <= of_pods.keys() else MAYBE


def _is_strict(part: Part) -> bool:
    modes = [part.text("spec", "mtls", "mode")]
    modes += [each.text("mode") for _, each in part.members("spec", "portLevelMtls")]
    return "STRICT" in modes
