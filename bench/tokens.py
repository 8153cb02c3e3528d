"""Cost of verifying a token that was not seen before: `python -m bench.tokens`.

The sidecar's identity judges fresh RS256 tokens: digest, form, header, claims, budget, signature, cache. Beside it
stands the least that anyone must do: decode base64 and JSON of header and payload, and `verify` of cryptography.
Short rounds of both alternate, and the median of the rounds' ratios counts, so a busy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from bench.identity import AUDIENCE, ISSUER, Issuer
from sidecar.core.env import Env
from sidecar.core.exchange import Caller, Exchange
from sidecar.identity.jwt import JwtIdentity
from sidecar.identity.key_source import InlineKeys
from sidecar.identity.spec import JwtSpec
from sidecar.identity.verification import VerificationBudget, VerificationSpec
from sidecar.process.interpreter import freeze_startup
from sidecar.telemetry.metrics.registry import Registry

MOST: Final = 1.3
"""Largest ratio of the sidecar to the least."""
ROUNDS: Final = 100
TOKENS: Final = 30
"""Tokens of a round."""


class Contender(NamedTuple):
    """Verifier of tokens, one of the two that are compared."""

    prepare: Callable[[str], Any]
    """Function that returns a token as `judge` takes it; its time does not count."""
    judge: Callable[[Any], object]


def least(issuer: Issuer) -> Contender:
    """Return a function that decodes a token and verifies its signature, without any other check."""
    public, how, kind = issuer.key.public_key(), padding.PKCS1v15(), hashes.SHA256()

    def decode(part: str) -> bytes:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))

    def verify(token: str) -> object:
        signed, _, signature = token.rpartition(".")
        header, _, payload = signed.partition(".")
        json.loads(decode(header))
        public.verify(decode(signature), signed.encode(), how, kind)
        return json.loads(decode(payload))

    return Contender(str, verify)


def sidecar(issuer: Issuer) -> Contender:
    """Return a function that lets the sidecar's identity judge a token; it must accept it."""
    loop: Any = asyncio.new_event_loop()
    env = Env.on(loop, wall=time.time, rng=random.Random(0), emit=lambda *_, **__: None, meter=Registry())
    spec = JwtSpec.model_validate({"issuer": ISSUER, "audiences": [AUDIENCE]})
    limits = VerificationSpec.built_in(share=1e9)
    budget = VerificationBudget(limits, env, at_once=sys.maxsize)  # only its cost counts here
    found = JwtIdentity("bench", spec, InlineKeys("bench", json.loads(issuer.key_set())["keys"]), budget, env)

    def prepare(token: str) -> Exchange:
        return Exchange(b"GET", b"/", None, f"host: bench\r\nauthorization: Bearer {token}\r\n".encode())

    def judge(x: Exchange) -> object:
        lines = x.lines
        verdict = found.authenticate(x, lines, b"\n" + lines.lower(), env.now())
        assert isinstance(verdict, Caller), verdict
        return verdict

    return Contender(prepare, judge)


def seconds(contender: Contender, tokens: Sequence[str]) -> float:
    """Return the CPU seconds of one token."""
    judge, prepared = contender.judge, [contender.prepare(token) for token in tokens]
    began = time.process_time()
    for each in prepared:
        judge(each)
    return (time.process_time() - began) / len(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tokens", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of each (default: %(default)s)")
    rounds = parser.parse_args().rounds
    issuer = Issuer()
    freeze_startup()  # the collector as the sidecar's process has it
    both = {"least": least(issuer), "sidecar": sidecar(issuer)}
    spent: dict[str, list[float]] = {name: [] for name in both}
    turns = [[issuer.token(f"{turn}-{number}") for number in range(TOKENS)] for turn in range(rounds + 1)]
    for tokens in turns:  # all are signed before, so that signing disturbs no round
        for name, contender in both.items():
            spent[name].append(seconds(contender, tokens))
    ours, theirs = (median(spent[name][1:]) for name in ("sidecar", "least"))
    ratio = median(own / other for own, other in zip(spent["sidecar"][1:], spent["least"][1:], strict=True))
    size = len(issuer.token())
    print(f"a fresh RS256 token of {size} bytes: sidecar {ours * 1e6:.1f} us of CPU, least {theirs * 1e6:.1f} us")
    print(f"ratio {ratio:.2f}, at most {MOST}: {'holds' if ratio <= MOST else 'DOES NOT HOLD'}")
    raise SystemExit(ratio > MOST)


if __name__ == "__main__":
    main()
