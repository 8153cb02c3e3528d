"""Tests of the check of rate limits: captures, evasion, shared upstreams, and limits without effect."""

from __future__ import annotations

import pytest

from sidecar.config.files import Source
from sidecar.config.load import Loaded, load
from tests.support.cases import each

POLICIES = """version: 1
listeners: {{inbound: {{address: "0.0.0.0:0"}}, outbound: {{address: "127.0.0.1:0"}}}}
upstreams: {{app: {{endpoints: ["http://app:80"]{upstream}}}}}
routes:
  - {{name: order, listener: {listener}, match: {{path: "/orders/{{id}}"}}, upstream: app, {more}rate_limit: {limits}}}
  - {{name: other, listener: outbound, match: {{path: /}}, upstream: app}}
"""
ADDRESS = "{name: address, rate: 1/s, burst: 1, key: client.address}"


def loaded(limits: str = "off", upstream: str = "", listener: str = "inbound", more: str = "") -> Loaded:
    text = POLICIES.format(limits=limits, upstream=upstream, listener=listener, more=more)
    return load([Source("p.yaml", text.encode())], {})


def warnings(limits: str = "off", upstream: str = "", **facts: str) -> list[str]:
    found = loaded(limits, upstream, **facts)
    assert found.problems == []
    return [
        f"{each.path.removeprefix('routes.order.rate_limit')}: {each.message}"
        for each in found.warnings
        if "rate_limit" in each.path
    ]


@pytest.mark.parametrize(
    ("limits", "warning"),
    [
        (f"[{ADDRESS}]", ""),
        (f"[{ADDRESS[:-1]}, cost: {{answer_size: 1KiB}}}}]", ""),
        (
            f"[{ADDRESS[:-1]}, cost: {{answer_size: 10B}}}}]",
            ".address.rate: lets 10 bytes of answers pass in a second; write a higher rate, or a larger answer_size",
        ),
        (f"{{limits: [{ADDRESS}]}}", ""),
        (f"[{{name: tenant, rate: 1/s, key: header.x-tenant}}, {ADDRESS}]", ""),
        ("[{name: tenant, rate: 1/s, key: header.x-tenant}, {name: all, rate: 10/s}]", ""),
        (
            "[{name: tenant, rate: 1/s, key: header.x-tenant}]",
            ".tenant.key: is evaded by clients that send another x-tenant each time; add a limit with key: "
            "client.address",
        ),
        (
            "[{name: all, rate: 50/s, burst: 0}]",
            ".all.burst: refuses the second of two requests that come within 20ms; write such as burst: 10",
        ),
        (
            "[{name: all, rate: 6/m, burst: 0}]",
            ".all.burst: refuses the second of two requests that come within 10s; write such as burst: 10",
        ),
        ("[{name: all, rate: 50/s, burst: 0, delay: {max: 1s}}]", ""),
        (
            f"[{ADDRESS}, {{name: all, rate: 1/s, burst: 1}}]",
            ".address.rate: is never reached: `all` refuses earlier; lower it, or leave it out",
        ),
        (
            f"[{ADDRESS}, {{name: again, rate: 1/s, burst: 1, key: client.address}}]",
            ".again.rate: is never reached: `address` refuses earlier; lower it, or leave it out",
        ),
        (f"[{ADDRESS}, {{name: slower, rate: 1/m, burst: 9, key: client.address}}]", ""),
        (f"[{ADDRESS}, {{name: seen, rate: 1/m, burst: 1, key: client.address, mode: observe}}]", ""),
        (f"[{ADDRESS}, {{name: net, rate: 10/s, key: client.address, ipv6_prefix: 48}}]", ""),
        (
            f"[{ADDRESS}, {{name: host, rate: 10/s, key: client.address, ipv6_prefix: 128}}]",
            ".host.rate: is never reached: `address` refuses earlier; lower it, or leave it out",
        ),
        (
            f"[{{name: site, rate: 10/s, key: header.Host}}, {ADDRESS}]",
            ".site.key: counts all requests together: the listener takes host, so that no request has it here; write "
            "another field, or client.address",
        ),
        (
            f"[{{name: t, rate: 1/s, key: header.x-t, otherwise: header.x-t}}, {ADDRESS}]",
            ".t.otherwise: has no effect: it is header.x-t too; write client.address, or leave it out",
        ),
        (
            "[{name: all, rate: 10/s, otherwise: client.address}]",
            ".all.otherwise: has no effect: with the key none no request is without a key; leave it out",
        ),
        (
            "[{name: order, rate: 10/s, key: path.id, ipv6_prefix: 56}]",
            ".order.ipv6_prefix: has no effect without the key client.address; leave it out",
        ),
        (
            "[{name: all, rate: 10/s, count: misses}]",
            ".all.count: has no effect: the route `order` has no cache; leave it out",
        ),
    ],
)
def test_limits_that_do_not_do_what_they_seem_to(limits: str, warning: str) -> None:
    assert warnings(limits) == ([warning] if warning else [])


def test_fields_of_a_trusted_caller_are_no_evasion() -> None:
    assert warnings("[{name: tenant, rate: 1/s, key: header.x-tenant}]", listener="outbound") == []


def test_a_limit_that_several_routes_share_needs_a_key() -> None:
    (warning,) = warnings(upstream=", rate_limit: [{name: all, rate: 10/s}]")
    assert "counts all clients of 2 routes together, so that one can use it up for the others" in warning
    assert warnings(upstream=f", rate_limit: [{{name: all, rate: 10/s}}, {ADDRESS}]") == []


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ("quota: [{name: day, max: 9, per: hour}]", 1),
        ("quota: {fields: off, quotas: [{name: day, max: 9, per: hour}]}", 0),
        ("quota: {mode: observe, quotas: [{name: day, max: 9, per: hour}]}", 0),
        ("quota: [{name: hour, max: 9, per: hour}]", 0),
    ],
)
def test_limits_that_the_same_responses_state_have_names_of_their_own(more: str, count: int) -> None:
    limit = "[{name: day, rate: 1/s, burst: 1, key: client.address}]"
    found = [each for each in loaded(limit, more=f"{more}, ").warnings if "is the name of" in each.message]
    assert [each.path for each in found] == ["routes.order.quota.day.name"] * count
    assert all(each.message.startswith("is the name of a limit of `rate_limit` too") for each in found)
    shared = loaded(limit, upstream=f", rate_limit: {limit}")
    (warning,) = [each for each in shared.warnings if "is the name of" in each.message]
    assert warning.path == "routes.order.rate_limit.day.name"
    assert warning.message == (
        "is the name of a limit of the upstream too, so that clients cannot tell them apart in RateLimit; rename one"
    )


def test_a_delay_is_shorter_than_the_request() -> None:
    limits = "[{name: all, rate: 10/s, delay: {max: 2s}}]"
    (warning,) = warnings(limits, more="timeout: {request: 2s}, ")
    assert warning.startswith(".all.delay.max: is not shorter than timeout.request (2s) of the route `order`")
    assert warnings(limits, more="timeout: {request: 3s}, ") == []


def test_a_key_names_a_capture_of_every_route() -> None:
    (problem,) = loaded("[{name: order, rate: 1/s, key: path.ids}]").problems
    assert problem.message == "names path.ids, which the route `order` does not capture; did you mean `id`?"
    (problem,) = loaded(upstream=", rate_limit: [{name: order, rate: 1/s, key: path.id}]").problems
    assert problem.message.startswith("names path.id, which the route `other` does not capture")
    (problem,) = loaded('[{name: order, rate: 1/s, cost: "{path.ids}"}]').problems
    assert "names {path.ids}" in problem.message


def test_a_key_of_callers_needs_callers() -> None:
    message = "needs the callers of a block `authenticate`, which {}; add it, or write client.address"
    (problem,) = loaded("[{name: order, rate: 1/s, key: caller}]").problems
    assert problem.message == message.format("the route `order` does not have")
    (problem,) = loaded("[{name: order, rate: 1/s, key: header.x-a, otherwise: caller.claims.tenant}]").problems
    assert problem.path.endswith(".otherwise")
    (problem,) = loaded(upstream=", rate_limit: [{name: order, rate: 1/s, key: caller}]").problems
    assert problem.message == message.format("no route of the upstream `app` has")


@each(["optional: true", "mode: observe"])
def test_anonymous_requests_need_a_key_of_their_own(why: str) -> None:
    limit = "{name: order, rate: 1/s, key: caller%s}"
    more = f"authenticate: {{any_of: [keys], {why}}}, "
    text = POLICIES.format(limits="[%s]", upstream="", listener="inbound", more=more)
    text += "identities: {keys: {api_key: {file: /etc/keys.yaml, header: x-key}}}\n"
    for otherwise, count in (("", 1), (", otherwise: client.address", 0)):
        found = load([Source("p.yaml", (text % (limit % otherwise)).encode())], {})
        assert found.problems == []
        warned = [each.message for each in found.warnings if "rate_limit" in each.path]
        assert warned == ["counts all anonymous requests together; add otherwise: client.address"] * count


STORES = 'stores: {fleet: {redis: {url: "redis://127.0.0.1:6379/0"}}}\n'


def with_stores(limits: str, stores: str = STORES, more: str = "") -> Loaded:
    text = POLICIES.format(limits=limits, upstream="", listener="inbound", more="") + stores + more
    return load([Source("p.yaml", text.encode())], {})


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ("[{name: a, rate: 1/s, store: flet}]", "names no store: there is no `flet`; did you mean `fleet`?"),
        ("[{name: a, rate: 1/s, lease: 100ms}]", "has `lease`, but no `store`; name one, or leave `lease` out"),
        ("[{name: a, rate: 1/s, store: fleet, lease: 300ms}]", "must be at most 200ms"),
        ("[{name: a, rate: 1/s, store: fleet, delay: {max: 1s}}]", "has a `delay` and a `store`"),
    ],
)
def test_a_limit_in_a_store_is_checked(limits: str, problem: str) -> None:
    assert any(problem in each.message for each in with_stores(limits).problems), with_stores(limits).problems


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        (f"[{ADDRESS}, {{name: wide, rate: 10/s, key: client.address, store: fleet}}]", 0),
        (f"[{ADDRESS[:-1]}, store: fleet}}, {{name: own, rate: 10/s, key: client.address}}]", 1),
        (f"[{ADDRESS[:-1]}, store: fleet}}, {{name: wide, rate: 10/s, key: client.address, store: fleet}}]", 1),
        (f"[{ADDRESS[:-1]}, store: fleet, on_store_failure: allow}}, {{name: a, rate: 9/s, key: client.address}}]", 0),
    ],
)
def test_a_limit_of_one_process_says_nothing_of_that_of_all(limits: str, count: int) -> None:
    found = with_stores(limits)
    assert found.problems == []
    assert len([each for each in found.warnings if "is never reached" in each.message]) == count


def test_a_store_that_nothing_uses_is_reported() -> None:
    (warning,) = [each.message for each in with_stores("off").warnings if "store" in each.message]
    assert warning == "no route uses the store `fleet`; use it or take it out"
    used = with_stores("[{name: a, rate: 1/s, burst: 1, key: client.address, store: fleet}]", more="service: orders\n")
    assert (used.problems, [each for each in used.warnings if "store" in each.message]) == ([], [])


def test_counts_in_a_store_need_the_name_of_their_service() -> None:
    limits = "[{name: a, rate: 1/s, burst: 1, key: client.address, store: fleet}]"
    (warning,) = [each for each in with_stores(limits).warnings if each.path.startswith("stores")]
    assert (warning.path, warning.line) == ("stores.fleet", 7)
    assert warning.message == "has one count for all services that have no name; add a line such as service: orders"
    assert not [each for each in with_stores(limits, more="service: a\n").warnings if each.path.startswith("stores")]


def test_a_cache_has_the_redis_of_the_store_that_it_names() -> None:
    found = with_stores("off", more="caches: {default: {store: fleet}}\n")
    assert found.problems == []
    assert found.spec is not None
    assert found.spec.caches["default"].redis == found.spec.stores["fleet"].redis
    both = with_stores("off", more='caches: {default: {store: fleet, redis: {url: "redis://a"}}}\n')
    assert [each.message for each in both.problems] == [
        "stands beside `redis`, which it replaces; leave one of them out"
    ]
    unknown = with_stores("off", more="caches: {default: {store: flet}}\n")
    assert "names no store" in unknown.problems[0].message


QUOTAS = """version: 1
listeners: {{inbound: {{address: "0.0.0.0:0"}}}}
stores: {{disk: {{file: /var/lib/quotas.db}}}}
upstreams: {{app: {{endpoints: ["http://app:80"], {upstream}}}}}
routes:
  - {{name: order, match: {{path: "/orders/{{id}}"}}, upstream: app, {more}quota: {quotas}}}
"""
DAY = "name: day, max: 5, per: day"


@pytest.mark.parametrize(
    ("quotas", "found"),
    [
        (f"[{{{DAY}, key: client.address, store: disk}}]", ""),
        ("[{name: hour, max: 5, per: hour}]", ""),
        (
            f"[{{{DAY}}}]",
            "day: begins anew whenever the process starts, so a day may have several quotas; name a store",
        ),
        (
            f"[{{{DAY}, store: disk, key: header.x-tenant}}]",
            "day.key: is evaded by clients that send another x-tenant each time; add a limit with key: client.address",
        ),
        (
            f"[{{{DAY}, store: disk, key: caller}}]",
            "day.key: needs the callers of a block `authenticate`, which the route `order` does not have; add it, or "
            "write client.address",
        ),
        (
            f"[{{{DAY}, store: disk, key: path.order}}]",
            "day.key: names path.order, which the route `order` does not capture; known are id",
        ),
        (
            f"[{{{DAY}, store: dusk}}]",
            "day.store: names no store: there is no `dusk`; did you mean `disk`?",
        ),
        (
            f"[{{{DAY}, store: disk, cost: '{{path.count}}'}}]",
            "day.cost: names {path.count}, which the route `order` does not capture; known are id",
        ),
        (
            f"[{{name: hour, max: 5, per: hour}}, {{{DAY}, store: disk}}]",
            "hour.max: is never reached: `day` refuses earlier; lower it, or leave it out",
        ),
        (
            f"[{{name: hour, max: 5, per: hour, store: disk}}, {{{DAY}, store: disk}}]",
            "hour.max: is never reached: `day` refuses earlier; lower it, or leave it out",
        ),
        (f"[{{name: hour, max: 5, per: hour, store: disk}}, {{{DAY}, store: disk, resets: '06:30'}}]", ""),
        (f"[{{name: hour, max: 4, per: hour, store: disk}}, {{{DAY}, store: disk}}]", ""),
        ("[{name: week, max: 9, per: week, store: disk}, {name: month, max: 9, per: month, store: disk}]", ""),
        (f"[{{{DAY}, store: disk}}, {{name: week, max: 5, per: week, store: disk, time_zone: Europe/Berlin}}]", ""),
        (f"[{{{DAY}, store: disk}}, {{name: month, max: 5, per: month, store: disk, mode: observe}}]", ""),
        (
            f"[{{{DAY}, store: disk}}, {{name: again, max: 5, per: day, store: disk}}]",
            "again.max: is never reached: `day` refuses earlier; lower it, or leave it out",
        ),
    ],
)
def test_quotas_that_do_not_do_what_they_seem_to(quotas: str, found: str) -> None:
    text = QUOTAS.format(quotas=quotas, upstream="", more="")
    loaded = load([Source("p.yaml", text.encode())], {})
    said = [
        f"{each.path.removeprefix('routes.order.quota.')}: {each.message}"
        for each in (*loaded.problems, *loaded.warnings)
        if "quota" in each.path
    ]
    assert said == ([found] if found else [])


@pytest.mark.parametrize(
    ("rates", "count"),
    [
        ("[{name: a, rate: 1/s, key: client.address}]", 0),
        ("[{name: a, rate: 1/s, key: client.address, mode: observe}]", 1),
        ("{mode: observe, limits: [{name: a, rate: 1/s, key: client.address}]}", 1),
        ("[{name: a, rate: 1/s, key: header.x-a}]", 1),
    ],
)
def test_a_rate_limit_by_address_bounds_a_quota_by_a_field(rates: str, count: int) -> None:
    quotas = f"[{{{DAY}, store: disk, key: header.x-tenant}}]"
    text = QUOTAS.format(quotas=quotas, upstream="", more=f"rate_limit: {rates}, ")
    warned = [each.path for each in load([Source("p.yaml", text.encode())], {}).warnings if "evaded" in each.message]
    assert warned.count("routes.order.quota.day.key") == count


@pytest.mark.parametrize(
    ("more", "upstream", "where"),
    [
        ("rate_limit: [{name: all, rate: 1/s, store: disk}], ", "", "routes.order.rate_limit.all.store"),
        ("", "rate_limit: [{name: all, rate: 1/s, store: disk}]", "upstreams.app.rate_limit.all.store"),
    ],
)
def test_a_rate_limit_cannot_be_counted_in_a_file(more: str, upstream: str, where: str) -> None:
    text = QUOTAS.format(quotas="off", upstream=upstream, more=more)
    loaded = load([Source("p.yaml", text.encode())], {})
    message = "names a store that is a file, which a rate limit cannot use; name one with `redis`"
    assert [(each.path, each.message) for each in loaded.problems] == [(where, message)]
