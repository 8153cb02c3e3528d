"""The battery's policies with their decisive block weakened: lint finds the weakness, or the table says why not."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from chaos.scenario.files import Loaded
from chaos.scenario.files import policies as policies_of
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.lint.run import lint
from tests.support import scenarios
from tests.support.cases import each


class Weakened(NamedTuple):
    """Weakening of the decisive block of one scenario."""

    service: str
    old: str
    """Text of the block in a policy file."""
    new: str
    rule: str
    """Rule that finds it."""


NO_CAPACITY: Final = "how much a service can do is in no policy file, so no limit is too high by arithmetic"
NO_NEED: Final = "which parts are worth waiting for, and how much one customer may ask, are decisions, and not numbers"
NO_BLOCK: Final = "no block of a policy decides: the sidecar itself has to go on, with any policies"
TABLE: Final[dict[str, Weakened | str]] = {
    "bad_canary": Weakened("shop", "return_when: {errors: {worse_by_points: 1}, p99: {worse_by: 50%}}",
                           "ramp: {to: 100%, over: 1m}", "R090"),
    "cache_stampede": Weakened("pages", "stale_while_revalidate: 10s", "key: {headers: [x-request-id]}", "R080"),
    "captured_tcp": "how long a protocol that is not HTTP may be silent, lint cannot know",
    "cold_cache": Weakened("catalogue", "timeout: 50ms", "timeout: 900ms", "R084"),
    "connection_blackhole": Weakened("bank", "connect_timeout: 100ms", "connect_timeout: 5s", "R009"),
    "flapping_upstream": Weakened("shop", "ejection: {consecutive_failures: 3, eject_for: 1s, min_healthy: 1}",
                                  "slow_start: 1s", "R073"),
    "grey_corruption": Weakened("shop", "max_attempts: 4", "max_attempts: 1", "R000"),
    "grpc_bad_day": Weakened("shop", "attempt: 250ms", "attempt: 1s", "R002"),
    "hard_down_dependency": "an answer that is good enough without the upstream is a decision, and not a number",
    "limits_store_gone": NO_CAPACITY,
    "load_spike": Weakened("shop", "queue: 20", "queue: 2000", "R062"),
    "long_tail": Weakened("shop", "after: 80ms", "after: 5s", "R004"),
    "metastable_overload": Weakened("tickets", "queue_timeout: 300ms", "queue_timeout: 2s", "R006"),
    "noisy_neighbour": Weakened("api", "queue: 9,", "queue: 900,", "R062"),
    "one_bad_of_three": Weakened("shop", "min_healthy: 2", "min_healthy: 0", "R070"),
    "retry_storm": Weakened("front", "ratio: 10%", "ratio: 100%", "R026"),
    "profile_page": NO_NEED,
    "rolling_restart": Weakened("shop", "on: [connect_failure, reset]}", "on: [reset], methods: [POST]}", "R020"),
    "sidecar_killed": Weakened("shop", "ejection: {consecutive_failures: 3, eject_for: 1s, min_healthy: 1}",
                               "slow_start: 1s", "R073"),
    "slow_optional_part": NO_NEED,
    "slow_dependency": Weakened("shop", "timeout: {request: 250ms}", "timeout: {request: 30s}", "R042"),
    "slow_loris_bodies": Weakened("portal", "request: 300ms", "request: 60s", "R042"),
    "tenant_floods": Weakened("api", "key: path.tenant", "key: header.x-tenant", "R000"),
    "thundering_herd": Weakened("shop", "ramp: 2s", "ramp: 0s", "R047"),
    "timeouts_inverted": Weakened("front", "timeout: {request: 400ms}", 'timeout: {request: "off"}', "R007"),
    "writes_under_resets": Weakened("till", "backoff: {base: 20ms, max: 80ms}", "backoff: {jitter: none}", "R023"),
    "zone_outage": Weakened("shop", "min_healthy: 1", "min_healthy: 0", "R070"),
}  # fmt: skip
"""Weakening of each scenario, or the reason why lint cannot find one."""
TABLE |= dict.fromkeys((name for name, loaded in scenarios.ALL.items() if not loaded.scenario.decisive), NO_BLOCK)


def found(sources: list[Source]) -> set[tuple[str, str]]:
    """Return the findings, by rule and message, in policies whose variables are addresses."""
    names = set(re.findall(r"\$\{([A-Z0-9_]+)\}", b"".join(source.text for source in sources).decode()))
    environ = {name: "9000" if name.endswith("PORT") else "127.0.0.1:9000" for name in names}
    environ |= {name: f"127.0.0.1:{9000 + int(name[-1])}" for name in names if name[-1].isdigit()}
    loaded = load(sources, environ | {"SERVICE": "x"})
    assert loaded.spec is not None, list(map(str, loaded.problems))
    return {(each.rule, each.problem.message) for each in lint(loaded, sources).findings}


def test_the_table_has_every_scenario() -> None:
    assert TABLE.keys() == scenarios.ALL.keys()
    assert sum(isinstance(each, Weakened) for each in TABLE.values()) >= 20
    assert all(scenarios.ALL[name].scenario.decisive for name, each in TABLE.items() if each != NO_BLOCK)


@each([(scenarios.ALL[name], case) for name, case in TABLE.items() if isinstance(case, Weakened)])
def test_a_weakened_block_is_found(case: tuple[Loaded, Weakened]) -> None:
    loaded, (service, old, new, rule) = case
    sources = policies_of(loaded, service)
    assert sum(source.text.count(old.encode()) for source in sources) >= 1
    weakened = [Source(name, text.replace(old.encode(), new.encode(), 1)) for name, text in sources]
    assert rule in {name for name, _ in found(weakened) - found(sources)}
