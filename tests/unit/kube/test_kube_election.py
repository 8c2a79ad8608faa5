"""Leader election by table, and several candidates with slow, lost and conflicting calls: never two that may write."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

import pytest

from forebay.kube import election as e
from forebay.kube.objects import LeaseSpec

T = e.Timing(15.0, 10.0, 2.0)


def candidate(name: str = "me") -> e.Election:
    return e.Election(name, T, Random(1))


def other(renewed: str = "t1", duration: int = 15) -> LeaseSpec:
    return LeaseSpec(holder_identity="other", lease_duration_seconds=duration, renew_time=renewed, lease_transitions=4)


def led(now: float = 0.0) -> e.Election:
    m = candidate()
    assert m.handle(e.Begin(now)) == [e.Look()]
    (write,) = m.handle(e.Seen(None, "", now))
    assert isinstance(write, e.Write)
    assert (write.version, write.acquired, write.spec.lease_transitions) == ("", True, 0)
    assert m.handle(e.Written("1", now, now + 0.1)) == [e.Lead(), e.Sleep(now + 0.1 + T.retry)]
    return m


def test_nobody_holds_it_so_we_lead_and_renew_over_our_own_version() -> None:
    m = led()
    assert m.may_write(9.9)
    (write,) = m.handle(e.Tick(2.1))
    assert isinstance(write, e.Write)
    assert (write.version, write.acquired) == ("1", False)
    assert m.handle(e.Written("2", 2.1, 2.2)) == [e.Sleep(2.2 + T.retry)]
    assert m.may_write(12.0)
    assert not m.may_write(12.1)  # the moment before the write was 2.1, RENEW is 10


def test_a_lease_is_free_only_when_it_did_not_change_for_its_duration_as_seen_by_us() -> None:
    m = candidate()
    m.handle(e.Begin(100.0))
    assert isinstance(m.handle(e.Seen(other("t1"), "1", 100.0))[0], e.Sleep)
    assert isinstance(m.handle(e.Seen(other("t2"), "2", 114.0))[0], e.Sleep)  # it was renewed
    assert isinstance(m.handle(e.Seen(other("t2"), "2", 128.9))[0], e.Sleep)
    (write,) = m.handle(e.Seen(other("t2"), "2", 129.0))
    assert isinstance(write, e.Write)
    assert (write.version, write.acquired, write.spec.lease_transitions) == ("2", True, 5)
    assert isinstance(m.handle(e.Failed("conflict", True, 129.1))[0], e.Sleep)  # another was first
    assert not m.leading


@pytest.mark.parametrize("renewed", ["1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "no time", ""])
def test_what_the_holders_clock_says_neither_ends_its_lease_nor_makes_it_longer(renewed: str) -> None:
    m = candidate()
    m.handle(e.Begin(100.0))
    assert isinstance(m.handle(e.Seen(other(renewed), "1", 100.0))[0], e.Sleep)
    assert isinstance(m.handle(e.Seen(other(renewed), "1", 114.9))[0], e.Sleep)
    assert isinstance(m.handle(e.Seen(other(renewed), "2", 115.0))[0], e.Sleep)  # renewed: the version says so
    assert isinstance(m.handle(e.Seen(other(renewed), "2", 130.0))[0], e.Write)


def test_the_holders_own_duration_counts_not_ours() -> None:
    m = candidate()
    m.handle(e.Seen(other(duration=60), "1", 0.0))
    assert isinstance(m.handle(e.Seen(other(duration=60), "1", 59.0))[0], e.Sleep)
    assert isinstance(m.handle(e.Seen(other(duration=60), "1", 60.0))[0], e.Write)


def test_a_released_lease_is_taken_at_once() -> None:
    m = candidate()
    free = LeaseSpec(holder_identity="", lease_duration_seconds=1, lease_transitions=4)
    (write,) = m.handle(e.Seen(free, "9", 0.0))
    assert isinstance(write, e.Write)
    assert write.spec.lease_transitions == 5


@pytest.mark.parametrize("why", ["unreachable", "500"])
def test_a_leader_that_cannot_renew_steps_down_before_others_may_begin(why: str) -> None:
    m = led()
    at = 2.0
    while at < 10.0:
        assert isinstance(m.handle(e.Tick(at))[0], e.Write)
        (sleep,) = m.handle(e.Failed(why, False, at + 0.5))
        assert isinstance(sleep, e.Sleep)
        at = sleep.until
    assert isinstance(m.handle(e.Tick(at))[0], e.StepDown)
    assert not m.leading
    assert at < T.duration
    assert m.handle(e.Tick(at + 100)) == []  # does not stand again


def test_a_process_that_was_stopped_finds_out_before_it_writes() -> None:
    m = led()
    assert not m.may_write(500.0)
    assert isinstance(m.handle(e.Tick(500.0))[0], e.StepDown)


def test_an_answer_that_took_too_long_does_not_make_a_leader() -> None:
    m = candidate()
    m.handle(e.Begin(0.0))
    m.handle(e.Seen(None, "", 0.0))
    assert m.handle(e.Written("1", 0.0, 11.0)) == [e.Look()]
    assert not m.may_write(11.0)


def test_a_conflict_under_a_leader_is_looked_into() -> None:
    m = led()
    m.handle(e.Tick(2.0))
    assert m.handle(e.Failed("conflict", True, 2.1)) == [e.Look()]
    mine = LeaseSpec(holder_identity="me", lease_duration_seconds=15)
    (write,) = m.handle(e.Seen(mine, "7", 2.2))  # somebody put a label on it
    assert isinstance(write, e.Write)
    assert write.version == "7"
    m.handle(e.Failed("conflict", True, 2.3))
    down, over = m.handle(e.Seen(other(), "8", 2.4))
    assert down == e.StepDown("other holds the lease now")
    assert over == e.Over()


def test_an_answer_to_our_own_write_that_was_lost_is_no_reason_to_wait() -> None:
    m = candidate()
    m.handle(e.Begin(0.0))
    m.handle(e.Seen(None, "", 0.0))
    assert isinstance(m.handle(e.Failed("cut", False, 0.1))[0], e.Sleep)
    assert m.handle(e.Tick(2.2)) == [e.Look()]
    (write,) = m.handle(e.Seen(LeaseSpec(holder_identity="me", lease_duration_seconds=15), "1", 2.3))
    assert isinstance(write, e.Write)
    assert write.version == "1"


def test_released_the_lease_says_nobody() -> None:
    m = led()
    down, write = m.handle(e.Release(3.0))
    assert isinstance(down, e.StepDown)
    assert isinstance(write, e.Write)
    assert (write.spec.holder_identity, write.version) == ("", "1")
    assert not m.may_write(3.0)
    assert m.handle(e.Written("2", 3.0, 3.1)) == [e.Over()]
    assert candidate().handle(e.Release(0.0)) == [e.Over()]


@pytest.mark.parametrize("timing", [(10, 10, 2), (15, 2, 2), (15, 10, 0), (0.9, 0.5, 0.1)])
def test_unsafe_timing_is_refused(timing: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="lease of"):
        e.Election("me", e.Timing(*timing), Random(1))


def test_a_candidate_without_identity_is_refused() -> None:
    with pytest.raises(ValueError, match="identity"):
        e.Election("", T, Random(1))


class Stand(NamedTuple):
    machine: e.Election
    offset: float  # its clock against the world's
    rate: float


@pytest.mark.parametrize("seed", range(30))
def test_never_two_that_may_write(seed: int) -> None:
    """Three candidates with clocks of their own, 1 % fast or slow; calls are slow, lost before or after the server did them."""
    random = Random(seed)
    lease: list[Any] = [None, 0]  # spec, version
    stands = [
        Stand(e.Election(f"c{n}", T, Random(seed * 10 + n)), random.uniform(0, 1e6), random.uniform(0.99, 1.01)) for n in range(3)
    ]
    world = 0.0

    def clock(stand: Stand, at: float) -> float:
        return stand.offset + at * stand.rate

    wake: list[tuple[float, int, Any]] = [(random.random(), n, e.Begin) for n in range(3)]
    leads = 0
    while wake and world < 2000.0:
        wake.sort(key=lambda entry: entry[0])
        world, n, what = wake.pop(0)
        stand = stands[n]
        said = what(clock(stand, world)) if callable(what) else what._replace(now=clock(stand, world))
        for instruction in stand.machine.handle(said):
            slow = random.choice([0.01, 0.01, 0.1, 1.0, 4.0])
            lost = random.random() < 0.15
            if isinstance(instruction, e.Look):
                seen = e.Failed("lost", False, 0.0) if lost else e.Seen(lease[0], str(lease[1]) if lease[1] else "", 0.0)
                wake.append((world + slow, n, seen))
            elif isinstance(instruction, e.Write):
                asked, mine = clock(stand, world), instruction.version == (str(lease[1]) if lease[1] else "")
                if lost and random.random() < 0.5:
                    wake.append((world + slow, n, e.Failed("lost before", False, 0.0)))
                elif not mine:
                    wake.append((world + slow, n, e.Failed("conflict", True, 0.0)))
                else:
                    stamp = str(world)
                    lease[:] = [
                        LeaseSpec(instruction.spec.holder_identity, 15, None, stamp, instruction.spec.lease_transitions),
                        lease[1] + 1,
                    ]
                    answer = e.Failed("lost after", False, 0.0) if lost else e.Written(str(lease[1]), asked, 0.0)
                    wake.append((world + slow, n, answer))
            elif isinstance(instruction, e.Sleep):
                pause = (instruction.until - clock(stand, world)) / stand.rate
                stop = random.choice([0.0] * 12 + [30.0])  # the process is stopped for half a minute
                wake.append((world + pause + stop, n, e.Tick))
            elif isinstance(instruction, e.Lead):
                leads += 1
            elif isinstance(instruction, e.Over):  # its process ends and another takes its place
                stands[n] = Stand(e.Election(f"c{n}-{world}", T, random), random.uniform(0, 1e6), random.uniform(0.99, 1.01))
                wake.append((world + 1.0, n, e.Begin))
        for moment in (world, wake[0][0] if wake else world):
            assert sum(s.machine.may_write(clock(s, moment)) for s in stands) <= 1
    assert leads >= 2
