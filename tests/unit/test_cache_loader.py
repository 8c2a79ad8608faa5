"""Loading from outside: which door is asked, what is asked again, and when it is given up. Doors of a script, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from forebay.cache import loader as module
from forebay.cache.loader import Loader, LoadError, Order, Target
from forebay.cache.peers import controlwire as c

P = c.Progress
WHOLE = P(files=4, files_total=4, bytes=400, bytes_total=400, walked=True, finished=True)
Step = list[P] | c.ControlError


class Doors:
    """Three members. `script`: what loads meet, one after the other; then all is whole."""

    def __init__(self, *script: Step, members: int = 3) -> None:
        self.script = list(script)
        self.members = [{"id": f"id-{n}"} for n in range(members)]
        self.asked: list[tuple[str, list[bytes], bool, int, list[str]]] = []
        self.refreshed: list[tuple[str, bytes]] = []
        self.unknown: set[bytes] = set()
        self.deaf: dict[str, int] = {}

    def load(
        self, address: str, paths: Sequence[bytes], *, metadata_only: bool = False, replicas: int = 0, nodes: Sequence[str] = ()
    ) -> Iterator[P]:
        self.asked.append((address, list(paths), metadata_only, replicas, list(nodes)))
        step = self.script.pop(0) if self.script else [WHOLE]
        if isinstance(step, c.ControlError):
            raise step
        yield from step

    def refresh(self, address: str, path: bytes) -> c.Changed:
        self.refreshed.append((address, path))
        if self.deaf.get(address):
            self.deaf[address] -= 1
            raise c.ControlError("silent")
        if path in self.unknown:
            raise c.ControlError("no such name", "NotFound")
        return c.Changed()

    def stats(self, address: str) -> dict[str, Any]:
        return {"cluster": {"members": self.members}}


class Run:
    def __init__(self, doors: Doors, order: Order, *found: list[str]) -> None:
        self.doors, self.slept, self.now = doors, list[float](), 0.0
        self.found = list(found)
        self.loader = Loader(doors, self.addresses, order, sleep=self.sleep, clock=lambda: self.now)
        self.told: list[P] = []

    def addresses(self) -> list[str]:
        return self.found.pop(0) if len(self.found) > 1 else self.found[0]

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def go(self) -> P:
        for p in self.loader.run():
            self.told.append(p)
        return self.told[-1]


ALL = Order((Target(b"/"),))
TWO = ["a:1", "b:1"]
CUT = c.ControlError("node at a:1 broke off")


def test_one_order_one_door() -> None:
    run = Run(Doors(), ALL, TWO)
    assert run.go() == WHOLE
    assert run.doors.asked == [("a:1", [b"/"], False, 1, [])]
    assert run.slept == []


def test_a_door_that_breaks_off_is_followed_by_the_next_and_nothing_shown_goes_back() -> None:
    early = P(files=3, files_total=3, bytes=300, bytes_total=300)
    run = Run(Doors([early], CUT, [P(files=1, files_total=1, bytes=100, bytes_total=100), WHOLE]), ALL, TWO)
    assert run.go() == WHOLE
    assert [asked[0] for asked in run.doors.asked] == ["a:1", "b:1", "a:1"]
    assert [p.bytes for p in run.told] == [300, 300, 400]
    assert not any(p.finished for p in run.told[:-1])


def test_files_that_failed_are_tried_again_and_what_is_new_gives_new_patience() -> None:
    def failed(done: int) -> Step:
        return [P(files=done, files_total=40, bytes=done, failed=40 - done, error="full", walked=True, finished=True)]

    run = Run(Doors(*(failed(n // 4) for n in range(24))), ALL, TWO)
    assert run.go() == WHOLE
    assert max(run.slept) == 8.0, "each fourth try brought something"
    run = Run(Doors(*(failed(5) for _ in range(9))), ALL, TWO)
    with pytest.raises(LoadError, match=r"35 files could not be loaded, the last: full; see the logs") as caught:
        run.go()
    assert (caught.value.reason, caught.value.final) == ("Incomplete", False)
    assert run.slept == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("NotFound", "TargetNotFound"), ("Malformed", "TargetRefused"), ("Protocol", "WorkersOutdated")],
)
def test_what_would_be_refused_again_is_given_up_at_once(name: str, reason: str) -> None:
    run = Run(Doors(c.ControlError("nothing matches /x*", name)), Order((Target(b"/x*"),)), TWO)
    with pytest.raises(LoadError, match=r"/x\*") as caught:
        run.go()
    assert (caught.value.reason, caught.value.final) == (reason, True)
    if name == "NotFound":
        assert "loadMetadata: true" in str(caught.value)


def test_workers_that_come_in_the_middle_get_their_share_by_the_same_order_given_again() -> None:
    class Growing(Doors):
        def load(self, *given: Any, **more: Any) -> Iterator[P]:
            if len(self.asked) < 2:
                self.members = [*self.members, {"id": f"new-{len(self.asked)}"}]
            yield from super().load(*given, **more)

    run = Run(Growing([P(files=1, files_total=4, bytes=100, bytes_total=400), WHOLE], members=2), ALL, TWO)
    assert run.go() == WHOLE
    assert len(run.doors.asked) == 3
    assert run.slept == []
    assert [p.finished for p in run.told] == [False, True], "its end is told once"


def test_workers_get_to_know_each_other_before_the_first_order() -> None:
    class Strangers(Doors):
        def stats(self, address: str) -> dict[str, Any]:
            known = 1 if len(run.slept) < 3 and address == "b:1" else 2
            if not run.slept:
                raise c.ControlError("node at a:1 has just started")
            return {"cluster": {"members": self.members[:known]}}

    run = Run(Strangers(), ALL, TWO)
    assert run.go() == WHOLE
    assert run.slept == [0.2, 0.2, 0.2]
    assert len(run.doors.asked) == 1
    run = Run(Doors(members=1), ALL, TWO)  # the other is dead, and nobody knows yet
    assert run.go() == WHOLE
    assert sum(run.slept) == pytest.approx(module.MEET, abs=0.3)


def test_of_several_targets_all_are_spread() -> None:
    class Growing(Doors):
        def load(self, *given: Any, **more: Any) -> Iterator[P]:
            if len(self.asked) == 1:
                self.members = [*self.members, {"id": "new"}]
            yield from super().load(*given, **more)

    run = Run(Growing(members=2), Order((Target(b"/a"), Target(b"/b", 2))), TWO)
    last = run.go()
    assert [asked[1] for asked in run.doors.asked] == [[b"/a"], [b"/b"], [b"/a"], [b"/b"]]
    assert (last.finished, last.files, last.bytes) == (True, 8, 800)
    assert [p.finished for p in run.told].count(True) == 1


def test_members_that_come_and_go_all_the_time_end_it_all_the_same() -> None:
    class Flapping(Doors):
        def stats(self, address: str) -> dict[str, Any]:
            self.members = [{"id": f"id-{len(self.asked)}"}]
            return super().stats(address)

    run = Run(Flapping(), ALL, TWO)
    assert run.go() == WHOLE
    assert len(run.doors.asked) == module.SPREADS + 1


def test_who_does_not_answer_at_the_end_is_asked_for_nothing_more() -> None:
    class Deaf(Doors):
        def stats(self, address: str) -> dict[str, Any]:
            if self.asked:
                raise c.ControlError("node broke off")
            return super().stats(address)

    assert Run(Deaf(), ALL, TWO).go() == WHOLE


def test_nobody_is_waited_for_without_end() -> None:
    run = Run(Doors(), ALL, [], [], [], TWO)
    assert run.go() == WHOLE
    assert run.slept == [0.2, 0.2, 0.2]
    run = Run(Doors(), ALL, [])
    with pytest.raises(LoadError, match="no worker of the dataset was ready for 600 s") as caught:
        run.go()
    assert (caught.value.reason, caught.value.final) == ("WorkersSilent", False)


def test_targets_of_as_many_replicas_go_together_and_no_more_than_there_are_workers() -> None:
    order = Order((Target(b"/a"), Target(b"/b", 2), Target(b"/c"), Target(b"/d", 9)))
    run = Run(Doors(), order, TWO)
    last = run.go()
    assert [asked[1:4] for asked in run.doors.asked] == [
        ([b"/a", b"/c"], False, 1),
        ([b"/b"], False, 2),
        ([b"/d"], False, 3),
    ]
    assert (last.files, last.bytes_total, last.finished) == (12, 1200, True)
    assert [p.finished for p in run.told] == [False] * (len(run.told) - 1) + [True]
    assert run.loader.notes == ["9 replicas were asked for, there are 3 workers: each has all of it"]


def test_a_member_that_left_since_they_were_counted_is_counted_again() -> None:
    run = Run(Doors(c.ControlError("2 replicas on 1 members", "Malformed")), Order((Target(b"/", 2),)), TWO)
    assert run.go() == WHOLE


def test_nodes_that_are_named_take_all_of_it_whatever_the_replicas() -> None:
    run = Run(Doors(CUT), Order((Target(b"/a", 2), Target(b"/b", 2)), nodes=("n1", "n2")), TWO)
    assert run.go() == WHOLE
    assert run.doors.asked == [(door, [b"/a", b"/b"], False, 0, ["n1", "n2"]) for door in TWO]
    gone = c.ControlError('"n1" is no member of the cluster', "Absent")  # its worker may come back: tried again, then given up
    run = Run(Doors(*[gone] * 8), Order((Target(b"/"),), nodes=("n1",)), TWO)
    with pytest.raises(LoadError, match="is no member") as caught:
        run.go()
    assert (caught.value.reason, caught.value.final) == ("Incomplete", False)


def test_names_alone_are_loaded_by_every_member() -> None:
    run = Run(Doors(), Order((Target(b"/a", 2), Target(b"/b")), metadata_only=True), TWO)
    run.go()
    both = [b"/a", b"/b"]
    assert run.doors.asked == [("a:1", both, True, 0, []), ("a:1", both, True, 0, ["id-0", "id-1", "id-2"])]


def test_every_worker_is_told_to_look_again_as_deep_as_names_are_known() -> None:
    doors = Doors()
    doors.unknown, doors.deaf = {b"/new/deep"}, {"b:1": 2}
    run = Run(doors, Order((Target(b"/new/deep/*.tar"),), refresh=True), TWO)
    assert run.go() == WHOLE
    assert doors.refreshed == [
        ("a:1", b"/new/deep"), ("a:1", b"/new"), ("b:1", b"/new/deep"),
        ("b:1", b"/new/deep"),
        ("b:1", b"/new/deep"), ("b:1", b"/new"),
    ]  # fmt: skip
    assert doors.asked == [("a:1", [b"/new/deep/*.tar"], False, 1, [])]


def test_a_worker_that_goes_while_it_is_told_is_not_waited_for() -> None:
    doors = Doors()
    doors.deaf = {"b:1": 99}
    run = Run(doors, Order((Target(b"/"),), refresh=True), TWO, ["a:1"])
    assert run.go() == WHOLE
    assert run.slept == [1]


def test_many_paths_are_more_than_one_order() -> None:
    order = Order(tuple(Target(b"/%d" % n) for n in range(c.PATHS_MOST + 1)))
    run = Run(Doors(), order, TWO)
    run.go()
    assert [len(asked[1]) for asked in run.doors.asked] == [c.PATHS_MOST, 1]


def test_the_part_of_a_path_before_the_first_pattern() -> None:
    cases = {b"/": b"/", b"/a/b": b"/a/b", b"/a/*/b": b"/a", b"/*": b"/", b"/a/b?": b"/a", b"/a/[x]/c": b"/a"}
    assert {path: module._certain(path) for path in cases} == cases
