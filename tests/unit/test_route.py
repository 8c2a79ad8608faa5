"""Whom a reader asks next: scripts of what happens, and what may never happen whatever does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.cache.members.route import (
    BREAKS,
    HEDGE_AFTER,
    HEDGE_WAIT,
    PATIENCE,
    REFUSING,
    RETRY_PAUSE,
    ROUND_PAUSE,
    SILENT,
    STALE,
    Ask,
    Fail,
    Health,
    Listen,
    Pause,
    Route,
    Step,
    Store,
)
from forebay.cache.peers.wire import Mode

RANKED = ["o", "s1", "s2", "s3"]


class Script:
    """A route and a clock."""

    def __init__(self, me: str = "x", *, store: bool = True, health: Health | None = None, **more: bool) -> None:
        self.health = health or Health()
        self.route = Route(RANKED, me=me, store=store, health=self.health, **more)
        self.now = 100.0

    def begin(self) -> Step:
        return self.route.begin(self.now)

    def after(self, seconds: float, event: Callable[..., Step], **more: object) -> Step:
        self.now += seconds
        return event(self.now, **more)


FETCH = Ask("o", Mode.FETCH, HEDGE_AFTER)


def cached(member: str) -> Ask:
    return Ask(member, Mode.CACHED, HEDGE_WAIT)


def standin(member: str) -> Ask:
    return Ask(member, Mode.STANDIN, SILENT)


def test_the_owner_asks_the_store_and_others_ask_the_owner() -> None:
    assert Script("o").begin() == Store()
    assert Script("s1").begin() == FETCH
    assert Script("x", store=False).begin() == FETCH


def test_who_stands_in_asks_the_store() -> None:
    assert Script("s1", as_owner=True).begin() == Store()
    assert Script("x", store=False, as_owner=True).begin() == FETCH, "without a store nobody can stand in"


def test_a_returned_owner_looks_for_what_was_fetched_in_its_place() -> None:
    s = Script("o", returned=True)
    assert s.begin() == cached("s1")
    assert s.route.progress(s.now) == HEDGE_WAIT
    assert s.after(0.1, s.route.absent) == cached("s2")
    assert s.after(0.1, s.route.refused) == Store()


def test_without_members_the_store_is_what_there_is() -> None:
    assert Route([], me="x", store=True, health=Health()).begin(0.0) == Store()
    r = Route([], me="x", store=False, health=Health())
    assert r.begin(0.0) == Pause(ROUND_PAUSE), "a member list may still come"
    assert isinstance(r.paused(PATIENCE), Fail)


def test_an_owner_without_progress_for_a_second_is_left_open_while_copies_are_looked_for() -> None:
    s = Script()
    s.begin()
    assert s.after(1.0, s.route.silence) == cached("s1")
    assert s.after(0.1, s.route.absent) == cached("s2")
    assert s.after(0.5, s.route.silence) == Listen("o", pytest.approx(SILENT - 1.6))
    assert s.route.progress(s.now) == HEDGE_AFTER
    assert s.after(1.0, s.route.silence) == cached("s1"), "each spell without progress is looked after once"


def test_an_owner_that_is_silent_for_ten_seconds_is_replaced_by_the_next_member() -> None:
    s = Script()
    s.begin()
    s.after(1.0, s.route.silence)
    s.after(0.0, s.route.absent)
    step = s.after(0.0, s.route.absent)
    assert isinstance(step, Listen)
    assert s.after(step.patience, s.route.silence) == standin("s1")
    assert s.now == 100.0 + SILENT
    t = Script(health=s.health)
    t.now = s.now
    assert t.begin() == standin("s1"), "and the next range does not wait for it again"
    t.now += SILENT
    assert t.begin() == FETCH


def test_never_the_store_before_ten_seconds_of_silence() -> None:
    s = Script("s1")
    step = s.begin()
    while not isinstance(step, Store):
        assert s.now < 100.0 + SILENT
        assert isinstance(step, Ask | Listen)
        step = s.after(step.patience, s.route.silence)
    assert s.now == pytest.approx(100.0 + SILENT)


def test_an_owner_that_refuses_for_two_seconds_is_replaced() -> None:
    s = Script()
    s.begin()
    assert s.after(0.0, s.route.refused) == cached("s1")
    assert s.after(0.0, s.route.absent) == cached("s2")
    step = s.after(0.0, s.route.absent)
    began = s.now
    while isinstance(step, Pause):
        assert step == Pause(RETRY_PAUSE)
        assert s.now - began < REFUSING + RETRY_PAUSE
        assert s.after(RETRY_PAUSE, s.route.paused) == FETCH
        step = s.after(0.0, s.route.refused)
    assert step == standin("s1")
    assert s.now - began >= REFUSING
    assert Script(health=s.health).begin() == standin("s1")


def test_an_owner_that_is_back_within_a_second_goes_on_as_owner() -> None:
    s = Script()
    s.begin()
    s.route.progress(s.now)
    assert s.after(0.1, s.route.broken) == cached("s1")
    s.after(0.0, s.route.absent)
    assert s.after(0.0, s.route.absent) == Pause(RETRY_PAUSE)
    assert s.after(0.2, s.route.paused) == FETCH
    assert s.after(0.0, s.route.refused) == Pause(RETRY_PAUSE)
    assert s.after(0.2, s.route.paused) == FETCH
    s.route.progress(s.now)
    assert not s.health.down("o", s.now)


def test_wrong_bytes_are_not_asked_for_twice() -> None:
    s = Script()
    s.begin()
    assert s.after(0.1, s.route.broken, wrong=True) == cached("s1")
    assert s.after(0.1, s.route.broken, wrong=True) == cached("s2")
    assert s.after(0.1, s.route.absent) == standin("s1")
    assert s.after(0.1, s.route.broken, wrong=True) == standin("s2")


def test_an_owner_that_keeps_breaking_off_is_replaced() -> None:
    s = Script()
    s.begin()
    step = s.after(0.0, s.route.broken)
    s.after(0.0, s.route.absent)
    step = s.after(0.0, s.route.absent)
    breaks = 1
    while step == Pause(RETRY_PAUSE):
        assert s.after(RETRY_PAUSE, s.route.paused) == FETCH
        step = s.after(0.0, s.route.broken)
        breaks += 1
    assert step == standin("s1")
    assert breaks == BREAKS + 1


def test_a_busy_owner_is_given_two_seconds() -> None:
    s = Script(store=False)
    s.begin()
    s.after(0.0, s.route.busy)
    s.after(0.0, s.route.absent)
    step = s.after(0.0, s.route.absent)
    began = s.now
    while step == Pause(RETRY_PAUSE):
        assert s.after(RETRY_PAUSE, s.route.paused) == FETCH
        step = s.after(0.0, s.route.busy)
    assert step == standin("s1")
    assert REFUSING <= s.now - began <= REFUSING + 2 * RETRY_PAUSE
    assert not s.health.down("o", s.now)


def test_an_owner_that_will_not_talk_to_us_is_routed_around() -> None:
    s = Script()
    s.begin()
    assert s.after(0.0, s.route.shut, reason="clock") == standin("s1")
    s = Script()
    s.begin()
    assert s.after(0.0, s.route.absent) == standin("s1")


def test_the_next_member_may_be_me() -> None:
    s = Script("s1")
    s.begin()
    assert s.after(0.0, s.route.shut, reason="r") == Store()


def test_every_member_comes_before_the_store_of_one_that_is_no_member() -> None:
    s = Script("x")
    s.begin()
    assert s.after(0.0, s.route.shut, reason="r") == standin("s1")
    assert s.after(0.0, s.route.refused) == standin("s2")
    assert s.after(SILENT, s.route.silence) == standin("s3")
    assert s.after(0.0, s.route.broken) == Store()


def test_a_client_tier_whose_secret_is_wrong_hears_of_it_at_once() -> None:
    s = Script("x", store=False)
    step = s.begin()
    for _ in RANKED:
        assert isinstance(step, Ask)
        step = s.after(0.0, s.route.shut, reason="the signature is wrong")
    assert step == Fail("the signature is wrong")


def test_a_client_tier_without_members_goes_on_for_a_while_and_fails_with_a_reason() -> None:
    s = Script("x", store=False)
    step = s.begin()
    while not isinstance(step, Fail):
        assert s.now < 100 + 2 * PATIENCE
        step = s.after(step.seconds, s.route.paused) if isinstance(step, Pause) else s.after(0.0, s.route.refused)
    assert s.now >= 100 + PATIENCE
    assert "refuses connections" in step.reason


# --- health


def test_health() -> None:
    h = Health()
    h.refused("a", 0.0)
    assert not h.down("a", 100.0), "one refusal is none"
    h.refused("a", 1.9)
    assert not h.down("a", 1.9)
    h.refused("a", 2.0)
    assert h.down("a", 2.0)
    assert h.ill() == ["a"]
    h.answered("a", 3.0)
    assert not h.down("a", 3.0)
    h.refused("a", 10.0)
    h.refused("a", 10.0 + STALE + 1)
    assert not h.down("a", 17.0), "refusals far apart are counted anew"
    h.silent("b", 20.0)
    assert h.down("b", 20.0)
    h.answered("b", 21.0)
    assert h.down("b", 21.0), "it greets but does not serve: left alone for its time"
    assert not h.down("b", 20.0 + SILENT)
    h.heard("b")
    assert not h.down("b", 20.5)
    assert not h.down("never heard of", 0.0)


# --- whatever happens

EVENTS = ["silence", "refused", "broken", "wrong", "busy", "shut", "absent", "progress"]


@settings(max_examples=500)
@given(
    st.permutations(RANKED),
    st.sampled_from([*RANKED, "x"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.lists(st.sampled_from(EVENTS), max_size=60),
    st.lists(st.sampled_from(RANKED), max_size=2),
)
def test_whatever_happens(
    ranked: list[str], me: str, store: bool, as_owner: bool, returned: bool, events: list[str], down: list[str]
) -> None:
    health = Health()
    for m in down:
        health.refused(m, 97.5)
        health.refused(m, 100.0)
    route = Route(ranked, me=me, store=store, health=health, as_owner=as_owner, returned=returned)
    now = 100.0
    step = route.begin(now)
    owner_tried = False
    for event in events:
        if isinstance(step, Store):
            assert store
            return
        if isinstance(step, Fail):
            assert not store
            assert step.reason
            return
        if isinstance(step, Pause):
            assert 0 < step.seconds < 1
            now += step.seconds
            step = route.paused(now)
            continue
        assert step.member != me
        assert step.member in ranked
        assert 0 < step.patience <= SILENT
        if isinstance(step, Listen):
            assert step.member == ranked[0]
        elif step.mode is Mode.FETCH:
            assert step.member == ranked[0]
            owner_tried = True
        elif step.mode is Mode.STANDIN:
            assert step.member != ranked[0]
            assert owner_tried or ranked[0] in down or ranked[0] == me
        if event == "silence":
            now += step.patience
            step = route.silence(now)
        elif event == "refused":
            step = route.refused(now)
        elif event in ("broken", "wrong"):
            step = route.broken(now, wrong=event == "wrong")
        elif event == "busy":
            step = route.busy(now)
        elif event == "shut":
            step = route.shut(now, "shut")
        elif event == "absent":
            step = route.absent(now)
        else:
            assert route.progress(now) > 0


@given(
    st.sampled_from(["silence", "refused", "broken", "busy", "shut", "absent"]), st.sampled_from([*RANKED, "x"]), st.booleans()
)
def test_nobody_waits_for_ever(event: str, me: str, store: bool) -> None:
    s = Script(me, store=store)
    step = s.begin()
    for _ in range(500):
        if isinstance(step, Store | Fail):
            break
        if isinstance(step, Pause):
            step = s.after(step.seconds, s.route.paused)
        elif event == "silence":
            step = s.after(step.patience, s.route.silence)
        elif event == "shut":
            step = s.after(0.0, s.route.shut, reason="r")
        else:
            step = s.after(0.0, getattr(s.route, event))
    assert isinstance(step, Store if store else Fail)
    assert s.now - 100.0 <= PATIENCE + 4 * SILENT
