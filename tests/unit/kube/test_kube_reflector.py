"""The reflector by table, and against a model server that pages, compacts, cuts and refuses in any order."""

from __future__ import annotations

from bisect import bisect_right
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.kube import reflector as r
from forebay.kube.objects import Key

A, B, C = Key("ns", "a"), Key("ns", "b"), Key("ns", "c")


def machine(page: int = 500) -> r.Reflector[str]:
    return r.Reflector(Random(1), page)


def item(key: Key, version: int) -> tuple[Key, str, str]:
    return key, str(version), f"{key.name}@{version}"


def listed(m: r.Reflector[str], *items: tuple[Key, str, str], version: str = "10", now: float = 0.0) -> list[Any]:
    out = m.handle(r.Start(now))
    assert out == [r.List(500, "")]
    return m.handle(r.Page(items, version, "", now))


def watching(m: r.Reflector[str], *items: tuple[Key, str, str], now: float = 0.0) -> r.Watch:
    watch = listed(m, *items, now=now)[-1]
    assert isinstance(watch, r.Watch)
    assert m.handle(r.Opened(now)) == []
    return watch


def test_a_list_is_told_then_watched_from_its_version() -> None:
    m = machine()
    *told, watch = listed(m, item(A, 3), item(B, 7))
    assert told == [r.Upsert(A, "a@3"), r.Upsert(B, "b@7"), r.Synced()]
    assert watch.version == "10"
    assert r.SHORTEST <= watch.seconds <= r.LONGEST
    assert watch.silence == watch.seconds + r.GRACE  # no bookmark was seen yet
    assert m.synced


def test_an_empty_quiet_collection_is_watched_from_the_lists_version() -> None:
    assert listed(machine(), version="77")[-1].version == "77"


def test_lines_change_the_copy_and_move_the_version() -> None:
    m = machine()
    watching(m, item(A, 3))
    assert m.handle(r.Line("MODIFIED", A, "11", "a@11", 1.0)) == [r.Upsert(A, "a@11")]
    assert m.handle(r.Line("ADDED", B, "12", "b@12", 1.0)) == [r.Upsert(B, "b@12")]
    assert m.handle(r.Line("DELETED", A, "13", "a@13", 1.0)) == [r.Remove(A)]
    assert m.version == "13"
    assert m.handle(r.Line("DELETED", A, "13", "a@13", 1.0)) == []
    assert m.handle(r.Line("ADDED", B, "12", "b@12", 1.0)) == []  # the same version twice is told once


def test_a_bookmark_moves_the_version_only_and_shortens_the_next_silence() -> None:
    m = machine()
    watching(m)
    assert m.handle(r.Bookmark("99", 60.0)) == []
    (watch,) = m.handle(r.Ended(None, 61.0))
    assert (watch.version, watch.silence) == ("99", r.SILENCE)


def test_a_server_that_has_no_bookmarks_any_more_is_not_cut_off_again_and_again() -> None:
    m = machine()
    watching(m)
    m.handle(r.Bookmark("99", 60.0))
    m.handle(r.Ended(None, 61.0))
    m.handle(r.Opened(61.0))
    (sleep,) = m.handle(r.Ended(r.Failure(0, "silent for 130 s"), 191.0))
    (watch,) = m.handle(r.Tick(sleep.until))
    assert watch.silence == watch.seconds + r.GRACE
    m.handle(r.Opened(200.0))
    m.handle(r.Bookmark("120", 260.0))
    (watch,) = m.handle(r.Ended(None, 400.0))
    assert watch.silence == r.SILENCE


def test_a_clean_end_is_resumed_at_once_a_barren_one_after_a_pause() -> None:
    m = machine()
    watching(m)
    assert isinstance(m.handle(r.Ended(None, 300.0))[0], r.Watch)
    m.handle(r.Opened(300.0))
    (sleep,) = m.handle(r.Ended(None, 300.1))
    assert isinstance(sleep, r.Sleep)
    assert isinstance(m.handle(r.Tick(sleep.until))[0], r.Watch)


@pytest.mark.parametrize("opened", [True, False])
def test_gone_lists_again_and_tells_what_nobody_watched(opened: bool) -> None:
    m = machine()
    listed(m, item(A, 3), item(B, 4))
    if opened:
        m.handle(r.Opened(0.0))
    assert m.handle(r.Ended(r.Failure(410, "too old"), 1000.0)) == [r.List(500, "")]
    *told, watch = m.handle(r.Page([item(B, 5), item(C, 6)], "20", "", 1000.0))
    assert told == [r.Upsert(B, "b@5"), r.Upsert(C, "c@6"), r.Remove(A), r.Synced()]
    assert watch.version == "20"


def test_gone_again_and_again_is_no_hot_loop() -> None:
    m = machine()
    listed(m)
    now, pauses = 0.0, 0
    for _ in range(20):
        (out,) = m.handle(r.Ended(r.Failure(410, "too old"), now))
        if isinstance(out, r.Sleep):
            pauses, now = pauses + 1, out.until
            (out,) = m.handle(r.Tick(now))
        assert out == r.List(500, "")
        m.handle(r.Page([], "20", "", now))
    assert pauses == 19
    assert now > 60.0


def test_an_expired_token_begins_the_pages_again_then_asks_for_all_at_once() -> None:
    m = machine()
    m.handle(r.Start(0.0))
    assert m.handle(r.Page([item(A, 1)], "10", "t1", 0.0)) == [r.Upsert(A, "a@1"), r.List(500, "t1")]
    assert m.handle(r.Ended(r.Failure(410, "expired"), 1.0)) == [r.List(500, "")]
    assert m.handle(r.Page([item(A, 1)], "11", "t2", 1.0)) == [r.List(500, "t2")]
    (sleep,) = m.handle(r.Ended(r.Failure(410, "expired"), 2.0))
    assert m.handle(r.Tick(sleep.until)) == [r.List(0, "")]
    *told, _ = m.handle(r.Page([item(B, 9)], "12", "", 3.0))
    assert told == [r.Upsert(B, "b@9"), r.Remove(A), r.Synced()]


def test_a_page_that_is_lost_is_asked_for_again_not_the_pages_before() -> None:
    m = machine()
    m.handle(r.Start(0.0))
    m.handle(r.Page([item(A, 1)], "10", "t1", 0.0))
    (sleep,) = m.handle(r.Ended(r.Failure(503, "busy", retry_after=7.0), 1.0))
    assert 8.0 <= sleep.until <= 15.0
    assert m.handle(r.Tick(sleep.until)) == [r.List(500, "t1")]
    assert m.handle(r.Page([item(B, 2)], "10", "", 9.0))[0] == r.Upsert(B, "b@2")
    assert set(m.held) == {A, B}


def test_retry_after_is_honoured_up_to_a_bound() -> None:
    m = machine()
    watching(m)
    (sleep,) = m.handle(r.Ended(r.Failure(429, "busy", retry_after=3.0), 100.0))
    assert 103.0 <= sleep.until <= 106.0
    assert isinstance(m.handle(r.Tick(sleep.until))[0], r.Watch)
    (sleep,) = m.handle(r.Ended(r.Failure(429, "busy", retry_after=86400.0), 200.0))
    assert sleep.until <= 200.0 + 2 * r.LONGEST_ASKED


def test_three_refusals_of_one_version_are_answered_by_a_list() -> None:
    m = machine()
    listed(m)
    out: list[Any] = []
    for _ in range(r.REFUSALS):
        (sleep,) = m.handle(r.Ended(r.Failure(500, "cannot decode"), 1.0))
        out = m.handle(r.Tick(sleep.until))
    assert out == [r.List(500, "")]


def test_a_server_that_cannot_be_reached_is_not_listed_for_that() -> None:
    m = machine()
    listed(m)
    for _ in range(10):
        (sleep,) = m.handle(r.Ended(r.Failure(0, "connection refused"), 1.0))
        assert m.problem == "connection refused"
        (out,) = m.handle(r.Tick(sleep.until))
        assert isinstance(out, r.Watch)


@pytest.mark.parametrize(
    ("version", "more", "words"),
    [("", "", "no resourceVersion"), ("10", "t1", "does not move")],
)
def test_a_list_that_cannot_be_used_is_asked_for_again(version: str, more: str, words: str) -> None:
    m = machine()
    m.handle(r.Start(0.0))
    if more:
        m.handle(r.Page([], "10", more, 0.0))
    (sleep,) = m.handle(r.Page([], version, more, 0.0))
    assert isinstance(sleep, r.Sleep)
    assert words in m.problem


def test_what_does_not_follow_is_a_defect() -> None:
    m = machine()
    with pytest.raises(r.Misuse, match="Tick while the reflector is idle"):
        m.handle(r.Tick(0.0))


# --- any interleaving -----------------------------------------------------------------------------------------------


class Server:
    """A collection with history. Versions are numbers here, and opaque text to the reflector."""

    def __init__(self) -> None:
        self.now_at = 1
        self.compacted = 0
        self.objects: dict[Key, int] = {}
        self.history: list[tuple[int, str, Key]] = []
        self.tokens: dict[str, tuple[int, list[tuple[Key, int]]]] = {}

    def write(self, key: Key, delete: bool) -> None:
        if delete and key not in self.objects:
            return
        self.now_at += 1
        kind = "DELETED" if delete else ("MODIFIED" if key in self.objects else "ADDED")
        if delete:
            del self.objects[key]
        else:
            self.objects[key] = self.now_at
        self.history.append((self.now_at, kind, key))

    def page(self, ask: r.List) -> r.Page[str] | None:
        """None: 410."""
        if ask.token:
            version, rest = self.tokens[ask.token]
            if version < self.compacted:
                return None
        else:
            version, rest = self.now_at, sorted(self.objects.items())
        size = ask.limit or len(rest)
        more = ""
        if len(rest) > size:
            more = f"t{len(self.tokens)}"
            self.tokens[more] = (version, rest[size:])
        return r.Page([item(key, at) for key, at in rest[:size]], str(version), more, 0.0)

    def after(self, version: int) -> tuple[int, str, Key] | None:
        at = bisect_right(self.history, version, key=lambda change: change[0])
        return self.history[at] if at < len(self.history) else None


class World:
    """A reflector, the server, and what was told."""

    def __init__(self, page: int) -> None:
        self.server = Server()
        self.machine: r.Reflector[str] = r.Reflector(Random(7), page)
        self.copy: dict[Key, str] = {}
        self.open_at: int | None = None  # version that an open watch has delivered
        self.now = 0.0
        self.ask: Any = None
        self.tell(r.Start(0.0))

    def tell(self, said: Any) -> None:
        self.now += 0.01
        said = said._replace(now=self.now)
        for instruction in self.machine.handle(said):
            if isinstance(instruction, r.Upsert):
                assert self.copy.get(instruction.key) != instruction.object, "told twice"
                self.copy[instruction.key] = instruction.object
            elif isinstance(instruction, r.Remove):
                del self.copy[instruction.key]  # KeyError: removed what was not there
            elif not isinstance(instruction, r.Synced):
                self.ask, self.open_at = instruction, None
        assert self.copy.keys() == self.machine.held.keys()

    def step(self, fault: str) -> None:
        """The outstanding request gets its answer, or `fault` instead."""
        failure = {
            "410": r.Failure(410, "gone"),
            "500": r.Failure(500, "error"),
            "429": r.Failure(429, "busy", 1.0),
            "lost": r.Failure(0, "cut"),
        }.get(fault)
        if isinstance(self.ask, r.Sleep):
            self.now = max(self.now, self.ask.until)
            self.tell(r.Tick(0.0))
        elif failure is not None:
            self.tell(r.Ended(failure, 0.0))
        elif isinstance(self.ask, r.List):
            page = self.server.page(self.ask)
            self.tell(page or r.Ended(r.Failure(410, "expired token"), 0.0))
        elif self.open_at is None:
            at = int(self.ask.version)
            if at < self.server.compacted:
                self.tell(r.Ended(r.Failure(410, "compacted"), 0.0))
            else:
                self.tell(r.Opened(0.0))
                self.open_at = at
        elif fault == "end":
            self.tell(r.Ended(None, 0.0))
        elif (change := self.server.after(self.open_at)) is None:
            self.tell(r.Bookmark(str(self.server.now_at), 0.0))
        else:
            version, kind, key = change
            self.open_at = version
            self.tell(r.Line(kind, key, str(version), f"{key.name}@{version}", 0.0))  # type: ignore[arg-type]

    def settle(self) -> None:
        """No faults any more: bounded by what there is to tell."""
        for _ in range(20 + 3 * len(self.server.history)):
            if self.open_at is not None and self.server.after(self.open_at) is None:
                return
            self.step("none")
        raise AssertionError(f"does not settle: {self.ask}")


KEYS = st.sampled_from([Key("ns", name) for name in "abcdefg"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), KEYS, st.booleans()),
        st.tuples(st.just("compact"), st.none(), st.none()),
        st.tuples(st.just("step"), st.sampled_from(["none"] * 6 + ["410", "500", "429", "lost", "end"]), st.none()),
    ),
    max_size=120,
)


@settings(max_examples=400, deadline=None)
@given(STEPS, st.integers(1, 4))
def test_any_interleaving_ends_equal_to_the_server(steps: list[tuple[str, Any, Any]], page: int) -> None:
    world = World(page)
    for what, first, second in steps:
        if what == "write":
            world.server.write(first, second)
        elif what == "compact":
            world.server.compacted = world.server.now_at
        else:
            world.step(first)
    world.settle()
    assert world.copy == {key: f"{key.name}@{version}" for key, version in world.server.objects.items()}
    assert world.machine.synced


@pytest.mark.parametrize("seed", range(4))
def test_a_long_storm_ends_equal_to_the_server(seed: int) -> None:
    random, world = Random(seed), World(page=3)
    keys = [Key("ns", str(n)) for n in range(20)]
    faults = ["none"] * 12 + ["410", "500", "429", "lost", "end"]
    for n in range(4000):
        dice = random.random()
        if dice < 0.3:
            world.server.write(random.choice(keys), random.random() < 0.4)
        elif dice < 0.32:
            world.server.compacted = world.server.now_at
        else:
            world.step(random.choice(faults))
        if n % 500 == 499:
            world.settle()
            assert world.copy == {key: f"{key.name}@{version}" for key, version in world.server.objects.items()}
