"""Tests of the cache stage by the sections of RFC 9111."""

from __future__ import annotations

import pytest

from sidecar.cache.rfc.dates import format_date
from sidecar.core.body import Body
from sidecar.core.outcome import RESET
from tests.support.clock import make_env
from tests.unit.stages.cache.world import World, is_hit, reply, said

FRESH = reply(Cache_Control="max-age=60", Date="Sun, 15 Jun 2025 15:06:40 GMT")
"""Answer that is fresh for a minute from the fake clock's start."""


class TestStoring:
    """RFC 9111 3: storing."""

    async def test_a_fresh_answer_is_reused(self) -> None:
        world = World(FRESH)
        first, second = await world.get(), await world.get()
        assert (first.body, second.body, world.calls) == (b"body", b"body", 1)
        assert said(first) == b"sidecar; fwd=uri-miss; ttl=60; stored"
        assert said(second) == b"sidecar; hit; ttl=60"

    @pytest.mark.parametrize("value", ["no-store", "private", "max-age=60, no-store", "private, max-age=60"])
    async def test_what_must_not_be_stored_is_not(self, value: str) -> None:
        world = World(reply(Cache_Control=value))
        await world.get()
        answer = await world.get()
        assert world.calls == 2
        assert said(answer) == b"sidecar; fwd=uri-miss; detail=%b" % (b"private" if "private" in value else b"no-store")

    async def test_2_other_uris_are_other_answers(self) -> None:
        world = World(FRESH)
        for path in ("/a", "/b", "/a?x=1", "/a?x=2", "/a?"):
            assert not is_hit(await world.get(path))
        x = world.request()
        x.authority = b"other"
        assert not is_hit(await world.service(x))
        x = world.request()
        x.scheme = b"https"
        assert not is_hit(await world.service(x))

    async def test_3_1_fields_that_are_not_stored(self) -> None:
        world = World(
            reply(
                Cache_Control='max-age=60, no-cache="A", private="B"', A="1", B="2", C="3",
                Proxy_Authenticate="x", Proxy_Authentication_Info="x", Proxy_Authorization="x",
            )
        )  # fmt: skip
        first, second = await world.get(), await world.get()
        assert first.header(b"a") == b"1"
        assert second.header(b"c") == b"3"
        for name in (b"a", b"b", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization"):
            assert second.header(name) is None

    async def test_3_1_everything_else_is_stored_as_it_came(self) -> None:
        world = World(reply(Cache_Control="max-age=60", X_Odd="a, b", Content_Encoding="gzip", Warning="199 x y"))
        await world.get()
        assert (await world.get()).lines.startswith(
            b"Cache-Control: max-age=60\r\nX-Odd: a, b\r\nContent-Encoding: gzip\r\nWarning: 199 x y\r\n"
        )

    async def test_3_3_a_partial_answer_is_passed_on_and_not_stored(self) -> None:
        world = World(reply(206, b"01", Cache_Control="max-age=60", Content_Range="bytes 0-1/10"), FRESH)
        assert (await world.get(Range="bytes=0-1")).status == 206
        assert world.sent(b"range") == b"bytes=0-1"
        assert (await world.get()).body == b"body"

    @pytest.mark.parametrize("word", ["public", "must-revalidate", "s-maxage=60"])
    async def test_3_5_authorization(self, word: str) -> None:
        world = World(reply(Cache_Control=f"max-age=60, {word}"))
        await world.get(Authorization="x")
        assert is_hit(await world.get())
        world = World(FRESH)
        assert said(await world.get(Authorization="x")).endswith(b"detail=authorization")
        assert not is_hit(await world.get())
        assert is_hit(await world.get(Authorization="x")), "what anyone may have, one with credentials may too"

    async def test_a_get_with_content_goes_past(self) -> None:
        world = World(FRESH)
        await world.get()
        x = world.request()
        x.body = b"evil"
        assert said(await world.service(x)) == b"sidecar; fwd=bypass"
        x = world.request()
        x.stream = Body()
        assert said(await world.service(x)) == b"sidecar; fwd=bypass"
        assert world.calls == 3
        assert is_hit(await world.get())

    async def test_9110_9_3_3_a_post_that_speaks_of_its_target(self) -> None:
        world = World(reply(Cache_Control="max-age=60", Content_Location="/a"))
        await world.ask("POST")
        assert is_hit(await world.get())
        world = World(reply(Cache_Control="max-age=60", Content_Location="/b"))
        await world.ask("POST")
        assert not is_hit(await world.get())


class TestReusing:
    """RFC 9111 4 and 5.1: reusing."""

    async def test_age_is_made_and_date_left_alone(self) -> None:
        world = World(reply(Cache_Control="max-age=600", Age="30", Date="Sun, 15 Jun 2025 15:06:40 GMT"))
        first = await world.get()
        assert first.header(b"age") == b"30"
        world.env.advance(5.7)
        second = await world.get()
        assert second.header(b"age") == b"35"
        assert second.lines.count(b"ge: 3") == 1
        assert second.header(b"date") == b"Sun, 15 Jun 2025 15:06:40 GMT"

    async def test_9110_6_6_1_a_missing_date_is_the_time_of_receipt(self) -> None:
        world = World(reply(Cache_Control="max-age=600"))
        await world.get()
        world.env.advance(100)
        assert (await world.get()).header(b"date") == b"Sun, 15 Jun 2025 15:06:40 GMT"

    async def test_4_2_it_ends(self) -> None:
        world = World(FRESH)
        await world.get()
        world.env.advance(59.9)
        assert is_hit(await world.get())
        world.env.advance(0.1)
        assert not is_hit(await world.get())

    async def test_4_2_3_the_time_of_the_call_counts(self) -> None:
        world = World(lambda x: (world.env.advance(50), FRESH(x))[1])
        await world.get()
        world.env.advance(10)
        assert not is_hit(await world.get())

    async def test_4_2_3_a_clock_that_was_slow_makes_nothing_young_once_it_is_set(self) -> None:
        env = make_env()
        right = env.wall
        ahead = -3600.0
        env.wall = lambda: right() + ahead
        world = World(lambda x: reply(Cache_Control="max-age=60", Date=format_date(right() - 30).decode())(x), env=env)
        await world.get("/a")
        assert (await world.get("/a")).header(b"age") == b"0", "as far as we know"
        ahead = 0.0
        world.env.advance(1)
        await world.get("/b")
        assert (await world.get("/b")).header(b"age") == b"30"

    async def test_head_is_answered_from_a_get(self) -> None:
        world = World(FRESH)
        await world.get()
        answer = await world.ask("HEAD")
        assert (answer.body, answer.header(b"content-length"), world.calls) == (b"", b"4", 1)
        assert is_hit(answer)

    async def test_a_head_is_not_stored_for_a_get(self) -> None:
        world = World(FRESH)
        assert not is_hit(await world.ask("HEAD"))
        assert not is_hit(await world.get())


class TestRequestDirectives:
    """RFC 9111 5.2.1 and 5.4: directives in requests."""

    @pytest.mark.parametrize(
        "value", ["max-age=0", "max-age=4", "min-fresh=56", "no-cache", "max-age=x", "min-fresh=x"]
    )
    async def test_a_newer_answer_is_fetched(self, value: str) -> None:
        world = World(FRESH)
        await world.get()
        world.env.advance(5)
        answer = await world.get(Cache_Control=value)
        assert said(answer) == b"sidecar; fwd=request; ttl=55; stored"

    @pytest.mark.parametrize("value", ["max-age=5", "min-fresh=55", "max-stale=9", "only-if-cached", "nothing-we-know"])
    async def test_what_is_stored_will_do(self, value: str) -> None:
        world = World(FRESH)
        await world.get()
        world.env.advance(5)
        assert is_hit(await world.get(Cache_Control=value))

    async def test_the_policy_may_ignore_them(self) -> None:
        world = World(FRESH, request_directives="ignore")
        await world.get()
        assert is_hit(await world.get(Cache_Control="no-cache, no-store"))

    async def test_5_2_1_2_max_stale(self) -> None:
        world = World(FRESH)
        await world.get()
        world.env.advance(70)
        answer = await world.get(Cache_Control="max-stale=10")
        assert said(answer) == b"sidecar; hit; ttl=-10"
        assert is_hit(await world.get(Cache_Control="max-stale"))
        assert not is_hit(await world.get(Cache_Control="max-stale=9"))

    async def test_5_2_1_2_max_stale_does_not_overrule_the_origin(self) -> None:
        world = World(reply(Cache_Control="max-age=60, must-revalidate", ETag='"a"'))
        await world.get()
        world.env.advance(61)
        assert not is_hit(await world.get(Cache_Control="max-stale"))

    async def test_5_2_1_5_no_store_goes_past(self) -> None:
        world = World(FRESH)
        assert said(await world.get(Cache_Control="no-store")) == b"sidecar; fwd=request; detail=no-store"
        assert not is_hit(await world.get())

    async def test_5_2_1_7_only_if_cached(self) -> None:
        world = World(FRESH)
        answer = await world.get(Cache_Control="only-if-cached")
        assert (answer.status, world.calls) == (504, 0)

    async def test_5_4_pragma(self) -> None:
        world = World(FRESH)
        await world.get()
        assert is_hit(await world.get(Pragma="no-cache", Cache_Control="max-age=60"))
        assert is_hit(await world.get(Pragma="other"))
        assert not is_hit(await world.get(Pragma="no-cache"))

    async def test_8246_immutable_answers_a_reload_but_not_a_forced_one(self) -> None:
        world = World(reply(Cache_Control="max-age=60, immutable"))
        await world.get()
        world.env.advance(5)
        assert is_hit(await world.get(Cache_Control="max-age=0"))
        assert not is_hit(await world.get(Cache_Control="no-cache"))
        world.env.advance(100)
        assert not is_hit(await world.get(Cache_Control="max-age=0"))


class TestVary:
    """RFC 9111 4.1: Vary."""

    async def test_variants_lie_side_by_side(self) -> None:
        world = World(lambda x: reply(200, x.header(b"foo") or b"none", Cache_Control="max-age=60", Vary="Foo")(x))
        for value in ("1", "2"):
            assert not is_hit(await world.get(Foo=value))
        assert said(await world.get()) == b"sidecar; fwd=vary-miss; ttl=60; stored"
        for value in ("1", "2"):
            answer = await world.get(Foo=value, Other="x")
            assert (is_hit(answer), answer.body) == (True, value.encode())
        assert (await world.get()).body == b"none"

    async def test_answers_that_vary_by_different_fields(self) -> None:
        world = World(
            reply(200, b"1", Cache_Control="max-age=60", Vary="Foo"),
            reply(200, b"2", Cache_Control="max-age=60", Vary="Bar"),
            reply(200, b"3", Cache_Control="max-age=60"),
            reply(200, b"4", Cache_Control="max-age=60", Vary="Foo"),
        )
        await world.get(Foo="1")
        await world.get(Foo="2", Bar="1")
        assert not is_hit(await world.get(Foo="2", Bar="2"))
        assert (await world.get(Foo="2", Bar="1")).body == b"2"
        assert (await world.get(Foo="2", Bar="2")).body == b"3"
        assert not is_hit(await world.get(Foo="1")), "keyed anew, by both"
        assert (await world.get(Foo="1")).body == b"4"

    async def test_a_star_is_never_stored(self) -> None:
        world = World(reply(Cache_Control="max-age=60", Vary="Foo, *"))
        await world.get()
        assert said(await world.get()).endswith(b"detail=vary")


class TestValidation:
    """RFC 9111 4.3: validation."""

    async def test_4_3_1_both_validators_are_sent(self) -> None:
        modified = "Sun, 01 Jun 2025 00:00:00 GMT"
        world = World(reply(Cache_Control="max-age=5", ETag='"a"', Last_Modified=modified), reply(304, b"", ETag='"a"'))
        await world.get()
        world.env.advance(10)
        answer = await world.get(If_None_Match='"mine"', Range="bytes=0-1")
        assert world.sent(b"if-none-match") == b'"a"'
        assert world.sent(b"if-modified-since") == modified.encode()
        assert world.sent(b"range") is None
        assert (answer.status, answer.body) == (206, b"bo")

    async def test_4_3_4_a_304_freshens(self) -> None:
        world = World(
            reply(Cache_Control="max-age=5", ETag='"a"', X="1", Y="1"),
            reply(304, b"", Cache_Control="max-age=50", ETag='"a"', X="2", Content_Length="999"),
        )
        await world.get()
        world.env.advance(10)
        answer = await world.get()
        assert (answer.status, answer.body, answer.header(b"x"), answer.header(b"y")) == (200, b"body", b"2", b"1")
        assert answer.header(b"age") == b"0"
        assert answer.header(b"content-length") is None
        assert said(answer) == b"sidecar; fwd=stale; fwd-status=304; ttl=50; stored"
        world.env.advance(49)
        answer = await world.get()
        assert (is_hit(answer), answer.header(b"x"), world.calls) == (True, b"2", 2)

    async def test_4_3_2_a_client_that_has_it_hears_so_after_validation(self) -> None:
        world = World(reply(Cache_Control="max-age=5", ETag='"a"'), reply(304, b"", ETag='"a"'))
        await world.get()
        world.env.advance(10)
        assert (await world.get(If_None_Match='"a"')).status == 304

    async def test_4_3_4_a_304_for_something_else_is_asked_again(self) -> None:
        world = World(
            reply(Cache_Control="max-age=5", ETag='"a"'), reply(304, b"", ETag='"b"'),
            reply(200, b"new", Cache_Control="max-age=5", ETag='"b"'),
        )  # fmt: skip
        await world.get()
        world.env.advance(10)
        answer = await world.get()
        assert (answer.body, world.calls, world.sent(b"if-none-match")) == (b"new", 3, None)

    async def test_4_3_3_a_full_answer_takes_the_place(self) -> None:
        world = World(FRESH, reply(200, b"new", Cache_Control="max-age=60"))
        await world.get()
        world.env.advance(61)
        assert (await world.get()).body == b"new"
        assert (await world.get()).body == b"new"
        assert world.calls == 2

    async def test_an_answer_that_cannot_be_stored_takes_the_old_one_away(self) -> None:
        world = World(reply(Cache_Control="max-age=5", ETag='"a"'), reply(200, b"secret", Cache_Control="private"), 503)
        await world.get()
        world.env.advance(10)
        await world.get()
        assert len(world.store.memory) == 0

    async def test_5_2_2_4_no_cache_is_validated_every_time(self) -> None:
        world = World(reply(Cache_Control="max-age=60, no-cache", ETag='"a"'), reply(304, b"", ETag='"a"'))
        await world.get()
        for number in (2, 3):
            answer = await world.get()
            assert (answer.status, answer.body, world.calls) == (200, b"body", number)

    async def test_cookies_of_a_304_reach_their_client_only(self) -> None:
        world = World(reply(Cache_Control="max-age=5", ETag='"a"'), reply(304, b"", ETag='"a"', Set_Cookie="s=1"))
        await world.get()
        world.env.advance(10)
        assert (await world.get()).header(b"set-cookie") == b"s=1"
        assert (await world.get()).header(b"set-cookie") is None

    async def test_4_3_2_conditions_are_answered_from_the_store(self) -> None:
        world = World(reply(Cache_Control="max-age=60", ETag='"a"', Vary="Foo", X="1", Content_Type="text/plain"))
        await world.get()
        answer = await world.get(If_None_Match='"a"')
        assert (answer.status, answer.body, world.calls) == (304, b"", 1)
        assert {name for name, _ in answer.headers} == {
            b"cache-control",
            b"etag",
            b"vary",
            b"date",
            b"age",
            b"cache-status",
        }
        assert (await world.get(If_None_Match='"b"')).status == 200

    async def test_4_3_2_conditions_for_the_origin_go_there(self) -> None:
        world = World(FRESH, 412)
        await world.get()
        answer = await world.get(If_Match='"a"')
        assert (answer.status, said(answer)) == (412, b"sidecar; fwd=request; detail=precondition")
        assert (await world.get(If_Unmodified_Since="Sun, 01 Jun 2025 00:00:00 GMT")).status == 412

    async def test_a_conditional_miss_fetches_all_of_it(self) -> None:
        world = World(reply(Cache_Control="max-age=60", ETag='"a"'))
        assert (await world.get(If_None_Match='"a"')).status == 304
        assert world.sent(b"if-none-match") is None
        assert is_hit(await world.get())

    async def test_what_cannot_be_stored_is_asked_as_the_client_asks(self) -> None:
        world = World(reply(Cache_Control="no-store", ETag='"a"'), reply(304, b""))
        await world.get(If_None_Match='"a"')
        assert world.sent(b"if-none-match") is None
        assert (await world.get(If_None_Match='"a"')).status == 304
        assert world.sent(b"if-none-match") == b'"a"'

    async def test_4_3_5_head_updates_or_removes(self) -> None:
        world = World(
            reply(Cache_Control="max-age=5", ETag='"a"', X="1"), reply(Cache_Control="max-age=60", ETag='"a"', X="2")
        )
        await world.get()
        world.env.advance(10)
        await world.ask("HEAD")
        answer = await world.get()
        assert (is_hit(answer), answer.header(b"x"), answer.body) == (True, b"2", b"body")
        world = World(reply(Cache_Control="max-age=5", ETag='"a"'), reply(Cache_Control="max-age=60", ETag='"b"'))
        await world.get()
        world.env.advance(10)
        await world.ask("HEAD")
        assert len(world.store.memory) == 0

    async def test_4_3_5_other_answers_to_head_change_nothing(self) -> None:
        world = World(reply(Cache_Control="max-age=5", ETag='"a"'), 410)
        await world.get()
        world.env.advance(10)
        await world.ask("HEAD")
        assert len(world.store.memory) == 1


class TestInvalidation:
    """RFC 9111 4.4: invalidation."""

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "M-SEARCH"])
    @pytest.mark.parametrize("status", [200, 204, 303])
    async def test_a_success_of_an_unsafe_method(self, method: str, status: int) -> None:
        world = World(FRESH, status, FRESH)
        await world.get()
        assert said(await world.ask(method)) == b"sidecar; fwd=method"
        assert not is_hit(await world.get())

    @pytest.mark.parametrize("failing", [400, 404, 500, 503, RESET])
    async def test_a_failure_changes_nothing(self, failing: object) -> None:
        world = World(FRESH, failing, FRESH)
        await world.get()
        await world.ask("POST")
        assert is_hit(await world.get())

    @pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
    async def test_safe_methods_change_nothing(self, method: str) -> None:
        world = World(FRESH)
        await world.get()
        await world.ask(method)
        assert is_hit(await world.get())

    @pytest.mark.parametrize("name", ["Location", "Content_Location"])
    @pytest.mark.parametrize("place", ["/b", "b", "http://orders/b", "HTTP://Orders:80/b", "//orders/b"])
    async def test_places_of_the_same_origin(self, name: str, place: str) -> None:
        world = World(FRESH, reply(**{name: place}), FRESH)
        await world.get("/b")
        await world.ask("POST")
        assert not is_hit(await world.get("/b"))

    @pytest.mark.parametrize("place", ["http://other/b", "https://orders/b", "http://orders:81/b", "http://[bad/b"])
    async def test_places_of_another_origin(self, place: str) -> None:
        world = World(FRESH, reply(Location=place), FRESH)
        await world.get("/b")
        await world.ask("POST")
        assert is_hit(await world.get("/b"))

    async def test_all_variants_go(self) -> None:
        world = World(reply(Cache_Control="max-age=60", Vary="Foo"))
        for value in ("1", "2"):
            await world.get(Foo=value)
        await world.ask("DELETE")
        for value in ("1", "2"):
            assert not is_hit(await world.get(Foo=value))

    async def test_other_routes_of_the_store_hear_of_it(self) -> None:
        world = World(FRESH)
        await world.get("/a?utm_source=x")
        other = World(200, env=world.env, store=world.store, route="writes", key={"ignore_query": ["utm_*"]})
        await other.ask("PUT", "/a?utm_source=x")
        assert not is_hit(await world.get("/a?utm_source=x"))


class TestRanges:
    """RFC 9110 14: ranges of stored answers."""

    async def test_parts_of_it(self) -> None:
        world = World(reply(200, b"0123456789", Cache_Control="max-age=60", ETag='"a"', A="1"))
        await world.get()
        answer = await world.get(Range="bytes=2-3")
        assert (answer.status, answer.body, answer.header(b"content-range")) == (206, b"23", b"bytes 2-3/10")
        assert (answer.header(b"a"), is_hit(answer), world.calls) == (b"1", True, 1)
        assert (await world.get(Range="bytes=20-")).status == 416
        assert (await world.get(Range="lines=1")).status == 200
        assert (await world.get(Range="bytes=2-3", If_Range='"b"')).status == 200
        assert (await world.get(Range="bytes=2-3", If_None_Match='"a"')).status == 304
        assert (await world.ask("HEAD", "/a", Range="bytes=2-3")).status == 200

    async def test_only_of_a_200(self) -> None:
        world = World(reply(404, b"0123456789", Cache_Control="max-age=60"))
        await world.get()
        assert (await world.get(Range="bytes=2-3")).status == 404
        assert (await world.get(If_None_Match="*")).status == 404
