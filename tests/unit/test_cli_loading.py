"""What a load's pod writes of itself: how often, and what at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import msgspec
import pytest

from forebay.api.fluid.status import Progress
from forebay.api.loadresult import FINAL
from forebay.cache.loader import LoadError, Target
from forebay.cache.peers import controlwire as c
from forebay.cli.processes.loading import EVERY, LONGEST, About, Reporter, carried_out, numbers, target
from forebay.kube.errors import Unreachable
from forebay.kube.objects import Key

ABOUT = About("ns", "l", "uid-1")


class Server:
    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.down = False

    def apply_status(self, _resource: Any, key: Key, body: dict[str, Any]) -> None:
        assert key == Key("ns", "l")
        if self.down:
            raise Unreachable("PATCH", "no route", sent=False)
        self.bodies.append(body)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_is_written_now_and_then_and_nothing_else_of_the_object() -> None:
    server, clock = Server(), Clock()
    reporter = Reporter(server, ABOUT, clock)  # type: ignore[arg-type]
    for second in range(21):
        clock.now = float(second)
        reporter.say(Progress(done_bytes=second // 10))
    assert [b["status"]["progress"].get("doneBytes", 0) for b in server.bodies] == [0, 1, 2]
    assert {tuple(b["status"]) for b in server.bodies} == {("progress",)}
    assert server.bodies[0]["metadata"]["uid"] == "uid-1"
    clock.now = 20.1
    reporter.say(Progress(done_bytes=3))
    assert len(server.bodies) == 3, "not so soon"
    reporter.say(Progress(done_bytes=3), last=True)
    assert len(server.bodies) == 4


def test_a_server_that_does_not_answer_is_asked_ever_more_rarely() -> None:
    server, clock = Server(), Clock()
    reporter, asked = Reporter(server, ABOUT, clock), list[float]()  # type: ignore[arg-type]
    server.down, before = True, -1.0
    for tenth in range(12_000):
        clock.now = tenth / 10
        next_ = reporter._next
        reporter.say(Progress(done_bytes=tenth))
        if reporter._next != next_:
            asked.append(clock.now - before if before >= 0 else 0.0)
            before = clock.now
    assert [round(gap) for gap in asked[1:6]] == [2 * EVERY, 4 * EVERY, 8 * EVERY, 16 * EVERY, LONGEST]
    server.down = False
    clock.now += LONGEST
    reporter.say(Progress(done_bytes=1))
    assert len(server.bodies) == 1


def test_numbers_of_a_status() -> None:
    half = c.Progress(1, 2, 50, 100, 10.4, 4.6, True, False, 0, "")
    assert numbers(half) == Progress(
        total_bytes=100,
        done_bytes=50,
        total_files=2,
        done_files=1,
        failed_files=0,
        bytes_per_second=10,
        eta_seconds=5,
        percent=50,
    )
    assert numbers(c.Progress(bytes=100, bytes_total=100)).percent == 99, "more may be found"
    assert numbers(c.Progress()).eta_seconds is msgspec.UNSET
    assert numbers(c.Progress(failed=1, error="x" * 1000)).last_error == "x" * 500
    end = numbers(c.Progress(2, 2, 0, 0, 0.0, 0.0, True, True))
    assert (end.percent, end.eta_seconds) == (100, 0)


class Loads:
    """A loader of a script."""

    def __init__(self, *steps: c.Progress | LoadError) -> None:
        self.steps, self.notes = steps, ["a note"]

    def run(self) -> Iterator[c.Progress]:
        for step in self.steps:
            if isinstance(step, LoadError):
                raise step
            yield step


WHOLE = c.Progress(2, 2, 100, 100, 1.0, 0.0, True, True)


def test_what_is_said_at_the_end() -> None:
    times = iter([0.0, 4.0])
    told: list[Progress] = []
    code, result = carried_out(Loads(WHOLE), told.append, lambda: next(times))  # type: ignore[arg-type]
    assert (code, result.reason, result.notes, result.milliseconds) == (0, "", "a note", 4000)
    assert result.progress.bytes_per_second == 25, "the mean"
    assert [p.done_bytes for p in told] == [100]


@pytest.mark.parametrize(("final", "code"), [(True, FINAL), (False, 1)])
def test_a_load_that_fails_keeps_how_far_it_came(final: bool, code: int) -> None:
    steps = (c.Progress(1, 2, 50, 100), LoadError("Incomplete", "why", final=final))
    got, result = carried_out(Loads(*steps), lambda _: None)  # type: ignore[arg-type]
    assert (got, result.reason, result.message, result.progress.done_bytes) == (code, "Incomplete", "why", 50)


def test_targets_of_the_command_line() -> None:
    assert target("2:/a:b/*") == Target(b"/a:b/*", 2)
    for wrong in ("/a", "0:/a", "x:/a", "1:a", ""):
        with pytest.raises(click.BadParameter, match="write REPLICAS:/PATH"):
            target(wrong)
