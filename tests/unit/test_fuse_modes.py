"""The mode manager against the kernel's rules: whatever the order of opens, releases, evictions and crashes, no EIO."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from forebay.fuse.modes import Modes
from forebay.fuse.record import Record, create_memfd

INODES = st.integers(2, 6)


@dataclass
class Kernel:
    """Rules 1, 4 and 8 of the protocol reference, 4.5."""

    ids: dict[int, int] = field(default_factory=dict)  # backing id -> which file (generation) it is of
    opens: dict[int, list[int]] = field(default_factory=dict)  # inode -> backing id of each open, 0 = cached
    next_id: int = 1

    def backing_open(self, file: int) -> int:
        self.ids[self.next_id] = file
        self.next_id += 1
        return self.next_id - 1

    def backing_close(self, backing_id: int) -> None:
        assert backing_id in self.ids, "closed twice"
        del self.ids[backing_id]

    def open(self, ino: int, backing_id: int) -> None:
        live = self.opens.setdefault(ino, [])
        assert all(other == backing_id for other in live), f"EIO: {backing_id} beside {live}"
        if backing_id and not live:
            assert backing_id in self.ids, "EIO: no such backing id"
        live.append(backing_id)


class Against(RuleBasedStateMachine):
    """One daemon after the other on one record. An open is counted, answered, and later applied by the kernel."""

    answered = Bundle("answered")  # (ino, backing id): the reply is in the kernel, the opener has not run yet
    opened = Bundle("opened")
    closed = Bundle("closed")  # the kernel let go; the daemon has not read RELEASE yet

    def __init__(self) -> None:
        super().__init__()
        self.fd = create_memfd()
        self.kernel = Kernel()
        self.complete: dict[int, int] = {}  # inode -> generation of its cache file
        self.generation = 0
        self.unique = 2
        self.crashes = 0
        self.boot()

    def boot(self) -> None:
        self.record = Record(self.fd)
        self.modes = Modes(self.record, idle_limit=2)

    def teardown(self) -> None:
        self.record.close()
        os.close(self.fd)

    def serve_open(self, ino: int, unique: int) -> int:
        backing_id = self.modes.enter(ino, unique)
        if backing_id is None:
            if ino in self.complete:
                backing_id = self.kernel.backing_open(self.complete[ino])
                self.modes.register(ino, backing_id, unique)
            else:
                self.modes.cache(ino, unique)
                backing_id = 0
        return backing_id

    def close(self, backing_id: int) -> None:
        if backing_id:
            self.kernel.backing_close(backing_id)

    @rule(target=answered, ino=INODES)
    def open(self, ino: int) -> tuple[int, int]:
        self.unique += 2
        backing_id = self.serve_open(ino, self.unique)
        self.kernel.opens.setdefault(ino, [])
        return ino, backing_id

    @rule(target=answered, ino=INODES)
    def open_counted_then_killed(self, ino: int) -> tuple[int, int]:
        """Killed between the count and the reply: the kernel resends the same request to the successor."""
        self.unique += 2
        self.serve_open(ino, self.unique)
        self.crash()
        return ino, self.serve_open(ino, self.unique)

    @rule(ino=INODES)
    def open_interrupted(self, ino: int) -> None:
        """Nobody waits for the reply any more: it is taken back."""
        self.unique += 2
        self.serve_open(ino, self.unique)
        self.close(self.modes.release(ino))

    @rule(target=opened, one=consumes(answered))
    def apply(self, one: tuple[int, int]) -> tuple[int, int]:
        self.kernel.open(*one)
        return one

    @rule(target=closed, one=consumes(opened))
    def close_file(self, one: tuple[int, int]) -> int:
        self.kernel.opens[one[0]].remove(one[1])
        return one[0]

    @rule(ino=consumes(closed))
    def release(self, ino: int) -> None:
        self.close(self.modes.release(ino))

    @rule(ino=consumes(closed))
    def release_answered_then_killed(self, ino: int) -> None:
        """Killed between the reply and the count: the count stays one too high."""
        self.crashes += 1
        self.crash()

    @rule(target=closed, ino=consumes(closed))
    def release_killed_before_reply(self, ino: int) -> object:
        self.crash()
        return multiple(ino)

    @rule(ino=INODES)
    def complete_file(self, ino: int) -> None:
        self.generation += 1
        self.complete.setdefault(ino, self.generation)

    @rule(ino=INODES)
    def evict(self, ino: int) -> None:
        if self.complete.pop(ino, None):
            self.close(self.modes.evict(ino))

    @rule()
    def crash(self) -> None:
        self.record.close()
        self.boot()

    @invariant()
    def never_below_the_kernel(self) -> None:
        for ino, live in self.kernel.opens.items():
            mode, count, backing_id = self.modes.mode(ino)
            assert count >= len(live)
            if live:
                assert mode == ("passthrough" if live[0] else "cached")
                assert backing_id == live[0]

    @invariant()
    def bounded(self) -> None:
        assert len(self.modes.idle) <= 2
        assert all(self.modes.mode(ino)[0] == "passthrough" and not self.modes.opens(ino) for ino in self.modes.idle)

    @precondition(lambda self: not self.crashes)
    @invariant()
    def nothing_leaks(self) -> None:
        held = {self.modes.mode(ino)[2] for ino in self.record.slots} - {0}
        assert held == set(self.kernel.ids)


TestAgainstTheKernel = Against.TestCase
TestAgainstTheKernel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@pytest.fixture
def modes():
    fd = create_memfd()
    record = Record(fd)
    yield Modes(record, idle_limit=2)
    record.close()
    os.close(fd)


def test_a_file_that_completes_under_cached_opens_stays_cached(modes: Modes) -> None:
    modes.cache(5, 10)
    assert modes.enter(5, 12) == 0
    assert modes.mode(5) == ("cached", 2, 0)
    modes.release(5)
    modes.release(5)
    assert modes.mode(5) == ("none", 0, 0)
    assert modes.enter(5, 14) is None


def test_a_warm_open_uses_the_idle_id(modes: Modes) -> None:
    modes.register(5, 77, 10)
    assert modes.release(5) == 0
    assert modes.enter(5, 12) == 77
    assert modes.mode(5) == ("passthrough", 1, 77)


def test_idle_ids_are_closed_least_recently_released_first(modes: Modes) -> None:
    for ino in (2, 3, 4):
        modes.register(ino, ino + 100, ino * 2)
    assert modes.release(3) == 0
    assert modes.release(2) == 0
    assert modes.release(4) == 103
    assert list(modes.idle) == [2, 4]


def test_an_evicted_id_lives_as_long_as_its_opens(modes: Modes) -> None:
    modes.register(5, 77, 10)
    assert modes.evict(5) == 0
    assert modes.enter(5, 12) == 77  # the kernel allows no other id now
    assert modes.release(5) == 0
    assert modes.release(5) == 77
    assert modes.mode(5) == ("none", 0, 0)


def test_an_evicted_idle_id_is_closed_at_once(modes: Modes) -> None:
    modes.register(5, 77, 10)
    modes.release(5)
    assert modes.evict(5) == 77
    assert modes.enter(5, 12) is None


def test_releases_without_an_open_change_nothing(modes: Modes) -> None:
    assert modes.release(9) == 0
    modes.register(5, 77, 10)
    modes.release(5)
    assert modes.release(5) == 0
    assert modes.mode(5) == ("passthrough", 0, 77)
