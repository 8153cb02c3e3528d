"""Imports of public configurations: `python -m tests.neighbours.public_files DIRECTORY`.

`DIRECTORY/OWNER/NAME` is a clone of each repository (`git clone https://github.com/OWNER/NAME DIRECTORY/OWNER/NAME`).
The files are read at the commits of the table, and nothing of them is kept here.  Each one must give a policy file
that has no problem, each finding must have its line, and the numbers must be those of the table.  `--write` prints the
table with the numbers of today.

Numbers of a row: routes, those with access rules, those that refuse all requests, and findings.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.imports.translate import translate

COMMITS: Final = {
    "authelia/authelia": "23572030b4048922a377ca40d59e804e0ed25fd7",
    "cloudystuff/orderweb": "5ec3bb8367e0a6987d23acbb627770e9d13e68bd",
    "Dahmen-Maram/Smart_queue": "001494052e1dc4b267f504a10620f9c849f1c83f",
    "dapr/dapr": "d8450742ce3260d93a2346f4398a1e60d019a45b",
    "dapr/quickstarts": "56eb3ae3a4cc1783f2d65a6525deb51065fe0151",
    "Edison0621/erp-microservice": "029b48bf17df6a58ad1da7aa0f7252236519caab",
    "envoyproxy/examples": "bc4dd4a22c9def284312099588608b8c19bb94a1",
    "envoyproxy/gateway": "d32f28294245e454d20f81d323d626a90e660c1e",
    "istio/istio": "86c9f01fd735fb01d8192f5bcaf0d424afb7f14c",
    "jramirez-plain/DaprDotNet2022": "549ea77cb0a3c189478441398f0ec80d4ba5c3e9",
    "kubernetes-sigs/gateway-api": "4564255ac2c35d582249b3cdf261bdf51c8bca32",
    "martinobordin/MicroDelivery": "c91c2b832fbb9422a0424a26c069f56ca7d751dd",
    "nginxinc/NGINX-Demos": "e76e10522f6de1df2ffeddb8ea6ac279cc81463d",
    "oauth2-proxy/oauth2-proxy": "14af2951e562c9573c72c433732ceee83aea3282",
    "sanjay-chaudhari/smartorder-dapr-dotnet": "cf3917bbde4b35612b6c4e844f2ae3ec75f68ddf",
    "shubham1172/daprcon-resiliency": "5068deeca857367a2b4e880d9e11faafe4440d8c",
    "thinktecture/dapr-basics-demos": "7bc94f77d16043cc21576be3925a70cf8fe9ba44",
    "traefik/traefik": "fd5a576df2e8aeb0bfc8a96b6ef6e60a61f7ec0a",
    "vouch/vouch-proxy": "c220a5e46e0884500e8e44185837112c2fa03078",
}
"""Commit of each repository."""
TABLE: Final = """
envoy envoyproxy/examples ext_authz/config/http-service.yaml 1 1 0 1
envoy envoyproxy/examples ext_authz/config/grpc-service/v3.yaml 1 1 1 1
envoy envoyproxy/examples ext_authz/config/opa-service/v3.yaml 1 1 1 1
envoy envoyproxy/examples rbac/envoy.yaml 1 1 1 2
envoy envoyproxy/examples single-page-app/envoy.yml 5 5 5 14
envoy envoyproxy/examples cors/backend/envoy.yaml 4 0 0 10
envoy envoyproxy/examples csrf/samesite/envoy.yaml 4 0 0 12
envoy envoyproxy/examples front-proxy/envoy.yaml 4 0 0 8
envoy envoyproxy/examples local_ratelimit/envoy.yaml 2 0 0 8
envoy envoyproxy/examples route-mirror/envoy.yaml 2 0 0 3
envoy envoyproxy/examples tls-sni/envoy-client.yaml 3 0 0 4
envoy envoyproxy/examples fault-injection/envoy.yaml 1 0 0 3
envoy authelia/authelia internal/suites/example/compose/envoy/envoy.yaml 9 2 2 14
istio istio/istio pilot/pkg/security/authz/builder/testdata/http/allow-full-rule-in.yaml 1 1 1 67
istio istio/istio pilot/pkg/security/authz/builder/testdata/http/deny-and-allow-in.yaml 1 1 0 0
istio istio/istio pilot/pkg/security/authz/builder/testdata/http/multiple-policies-in.yaml 4 4 0 4
istio istio/istio pilot/pkg/security/authz/builder/testdata/http/simple-policy-principal-with-wildcard-in.yaml 1 1 0 0
istio istio/istio pilot/pkg/security/authz/builder/testdata/http/custom-simple-http-in.yaml 1 1 1 2
istio istio/istio pilot/pkg/security/authz/builder/testdata/http/dry-run-mix-in.yaml 1 1 0 1
istio istio/istio pilot/pkg/serviceregistry/ambient/testdata/allow-groups-in.yaml 1 1 0 7
istio istio/istio pilot/pkg/serviceregistry/ambient/testdata/peer-authn-strict-root-permissive-workload-in.yaml 2 2 0 1
istio istio/istio tests/testdata/networking/sidecar-ns-scope/configs.yaml 5 1 0 9
istio istio/istio samples/bookinfo/networking/bookinfo-gateway.yaml 5 0 0 3
istio istio/istio samples/bookinfo/networking/destination-rule-all-mtls.yaml 4 0 0 14
istio istio/istio samples/bookinfo/networking/virtual-service-all-v1.yaml 4 0 0 4
istio istio/istio samples/bookinfo/networking/virtual-service-reviews-test-v2.yaml 2 0 0 1
istio istio/istio samples/bookinfo/networking/virtual-service-ratings-test-delay.yaml 2 0 0 2
istio istio/istio samples/external/aptget.yaml 5 0 0 0
dapr dapr/quickstarts service_invocation/resources/resiliency.yaml 2 0 0 2
dapr dapr/dapr pkg/resiliency/testdata/resiliency.yaml 4 0 0 21
dapr dapr/dapr tests/config/resiliency.yaml 4 0 0 6
dapr Dahmen-Maram/Smart_queue resiliency.yaml 8 0 0 3
dapr Edison0621/erp-microservice components/resiliency.yaml 4 0 0 6
dapr cloudystuff/orderweb components/resiliency.yaml 2 0 0 1
dapr jramirez-plain/DaprDotNet2022 dapr/components/resiliency.yaml 4 0 0 0
dapr martinobordin/MicroDelivery dapr/components/resiliency.yaml 4 0 0 11
dapr sanjay-chaudhari/smartorder-dapr-dotnet components/resiliency.yaml 2 0 0 3
dapr shubham1172/daprcon-resiliency dapr/resiliency.yaml 4 0 0 2
dapr thinktecture/dapr-basics-demos components/resiliency.yaml 2 0 0 5
nginx oauth2-proxy/oauth2-proxy contrib/local-environment/nginx.conf 3 1 0 12
nginx vouch/vouch-proxy examples/nginx/single-file/nginx_basic.conf 2 2 0 16
nginx vouch/vouch-proxy examples/nginx/single-file/nginx_with_vouch.conf 3 2 0 16
nginx vouch/vouch-proxy examples/nginx/single-file/nginx_with_vouch_single_server.conf 3 1 0 18
nginx vouch/vouch-proxy examples/nginx/multi-file/conf.d/app1.yourdomain.com.conf 2 2 0 5
nginx vouch/vouch-proxy examples/nginx/nginx_scopes_and_claims.conf 2 1 0 11
nginx vouch/vouch-proxy examples/OpenResty/conf.d/app1.yourdomain.com.conf 2 2 1 6
nginx nginxinc/NGINX-Demos gce-nginx-plus-deployment-guide-files/etc_nginx_conf.d/gce-all-active-lb.conf 3 3 2 16
nginx nginxinc/NGINX-Demos nginx-regex-tester/regextester/regextester.conf 2 1 1 2
nginx nginxinc/NGINX-Demos nginx-swarm-demo/nginxplus/backend.conf 7 4 2 24
nginx nginxinc/NGINX-Demos oauth2-token-introspection-oss/frontend.conf 1 1 1 11
nginx nginxinc/NGINX-Demos fun-with-health-checks/nginxplus/config/conf.d/backend.conf 3 0 0 39
nginx nginxinc/NGINX-Demos kubernetes-demo/third/nginxplus/backend.conf 2 0 0 13
traefik oauth2-proxy/oauth2-proxy contrib/local-environment/traefik/dynamic.yaml 4 2 0 7
traefik traefik/traefik integration/fixtures/https/clientca/https_1ca1config.toml 2 2 2 8
traefik traefik/traefik integration/fixtures/https/https_redirect.toml 10 0 0 18
traefik traefik/traefik integration/fixtures/https/https_domain_fronting.toml 8 0 0 17
traefik traefik/traefik integration/fixtures/headers/cors.toml 2 0 0 4
traefik traefik/traefik integration/fixtures/headers/secure.toml 2 0 0 6
traefik traefik/traefik integration/fixtures/file/simple.toml 2 0 0 4
traefik traefik/traefik integration/fixtures/k8s/07-ingressroute-cross-namespace.yml 5 0 0 11
traefik traefik/traefik pkg/provider/kubernetes/crd/fixtures/with_middleware_cross_namespace.yml 4 2 2 13
traefik traefik/traefik pkg/provider/kubernetes/crd/fixtures/with_failover.yml 1 0 0 8
traefik traefik/traefik pkg/provider/kubernetes/crd/fixtures/with_tls_options.yml 1 1 1 12
traefik traefik/traefik pkg/provider/kubernetes/crd/fixtures/with_sticky.yml 2 0 0 8
gateway-api envoyproxy/gateway examples/kubernetes/jwt/jwt.yaml 2 2 2 3
gateway-api envoyproxy/gateway examples/kubernetes/http-routing.yaml 4 0 0 5
gateway-api envoyproxy/gateway examples/kubernetes/merged-gateways.yaml 3 0 0 7
gateway-api kubernetes-sigs/gateway-api conformance/tests/gateway-with-clientcertificate-validation.yaml 2 2 2 7
gateway-api kubernetes-sigs/gateway-api conformance/tests/httproute-omitted-backendrefs.yaml 3 2 2 4
gateway-api kubernetes-sigs/gateway-api examples/standard/httproute.yaml 3 0 0 4
gateway-api kubernetes-sigs/gateway-api examples/standard/basic-grpc.yaml 2 0 0 4
gateway-api kubernetes-sigs/gateway-api examples/standard/basic-http.yaml 2 0 0 3
gateway-api kubernetes-sigs/gateway-api examples/standard/grpc-routing/bar-grpcroute.yaml 2 0 0 3
gateway-api kubernetes-sigs/gateway-api examples/standard/http-routing/bar-httproute.yaml 2 0 0 3
gateway-api kubernetes-sigs/gateway-api examples/standard/traffic-splitting/traffic-split-1.yaml 2 0 0 3
gateway-api kubernetes-sigs/gateway-api examples/experimental/http-route-timeouts/timeout-example.yaml 1 0 0 2
"""
"""Kind, repository, path and numbers of each file."""
PLACE: Final = re.compile(r"([^:]+):([0-9]+): (?:not translated|differs): \S.*")


class Row(NamedTuple):
    """Row of the table."""

    kind: str
    repository: str
    path: str
    numbers: tuple[int, ...]


def rows() -> Iterator[Row]:
    """Yield the rows of the table."""
    for line in TABLE.strip().splitlines():
        kind, repository, path, *numbers = line.split()
        yield Row(kind, repository, path, tuple(map(int, numbers)))


def read(directory: Path, repository: str, commit: str, path: str) -> str:
    """Return a file of a clone.  Raises `SystemExit` if it is not there."""
    command = ["git", "-C", str(directory / repository), "show", f"{commit}:{path}"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{repository}: {done.stderr.decode().strip()}; clone it to {directory / repository}")
    return done.stdout.decode()


def numbers(kind: str, name: str, text: str) -> tuple[int, ...]:
    """Return the numbers of an import.  Raises `AssertionError` for a policy with a problem, or a finding without a
    line of the file."""
    policy, findings = translate(kind, name, text)
    found = load([Source("policies.yaml", policy.encode())], {})
    assert not found.problems, found.problems
    lines = text.count("\n") + 1
    for each in findings:
        place = PLACE.fullmatch(each)
        assert place is not None, each
        assert place[1] == name, each
        assert 1 <= int(place[2]) <= lines, each
    routes = found.spec.routes if found.spec is not None else []
    blocks = [route.blocks for route in routes]
    guarded = [each for each in blocks if "authorize" in each or "authenticate" in each]
    refusing = sum('networks: ["0.0.0.0/0", "::/0"]' in line for line in policy.splitlines())
    return len(routes), len(guarded), refusing, len(findings)


def main(directory: Path, *, writes: bool) -> int:
    """Import all files, and print what has changed; return the exit code."""
    changed = 0
    for row in rows():
        text = read(directory, row.repository, COMMITS[row.repository], row.path)
        found = numbers(row.kind, row.path.rpartition("/")[2], text)
        changed += found != row.numbers
        if writes:
            print(row.kind, row.repository, row.path, *found)
        elif found != row.numbers:
            print(f"{row.kind} {row.repository} {row.path}: {found} in place of {row.numbers}")
    print(f"{sum(1 for _ in rows())} files, of which {changed} differ from the table", file=sys.stderr)
    return 0 if writes or not changed else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), writes="--write" in sys.argv[2:]))
