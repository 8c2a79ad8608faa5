"""`why`: one case for each reason a gang can have to wait."""

from __future__ import annotations

import pytest
from test_dispatcher import ask, hold, world

from forebay.scheduler.decision import Ask
from forebay.scheduler.dispatcher import Dispatcher
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.locality.warmth import Warmth
from forebay.scheduler.pods.request import Request
from forebay.scheduler.snapshot import capture
from forebay.scheduler.why import Free, Nearest, Why, sentences, why


def about(one: Dispatcher, warmth: Warmth, now: float, gang: str = "g") -> Why:
    before = one.state.card_free.copy()
    answer = why(capture(one, warmth, now), gang)
    assert (one.state.card_free == before).all()  # asking changes nothing
    return answer


def test_far_from_its_data() -> None:
    one, warmth = world(nodes=2)
    hold(warmth, 0, n0={0: 100})
    one.submit(ask("other", 8))
    one.decide(0, warmth)
    one.submit(ask("g", 2))
    one.decide(1, warmth)
    answer = about(one, warmth, 4)
    assert answer.reason == (
        "8 places are free, but starting there costs 10 s until its data is there and 60 s for breaking up free nodes; "
        "it waits as long for better ones"
    )  # gangs of 8 and of 2 come alike: 6 free places are worth 3 to them, 8 are worth 8
    assert answer.nearest == Nearest({"n1": 2}, 10.0, pytest.approx(70.0, abs=0.1))
    assert answer.eta_seconds == pytest.approx(66, abs=0.1)
    assert answer.failed == {"90% of ns/d0": 1, "idle cards": 1, "room for all 2 pods": 1}
    assert (answer.nodes_with_data, answer.position, answer.waited_seconds, answer.free) == (1, 1, 4.0, None)


def test_no_room() -> None:
    one, warmth = world(nodes=2)
    hold(warmth, 0, n0={0: 100})
    for name, pods in (("a", 6), ("b", 2)):
        one.submit(ask(name, pods))
    one.decide(0, warmth)
    one.submit(ask("c", 7, None))
    one.decide(0, warmth)
    one.submit(ask("g", 4))
    answer = about(one, warmth, 0)
    assert answer.reason == "it needs 4 places at once, 1 are free"
    assert (answer.nearest, answer.eta_seconds) == (None, None)
    assert answer.free == Free("n1", 3, ["c"])
    assert "free 3 places on n1, held by c" in "\n".join(sentences(answer))


def test_larger_than_any_node_and_than_the_cluster() -> None:
    one, warmth = world(nodes=2)
    hold(warmth, 0, n0={0: 100})
    one.submit(ask("a", 6))
    one.decide(0, warmth)
    one.submit(ask("g", 12))
    one.submit(ask("huge", 17))
    answer = about(one, warmth, 0)
    assert answer.free == Free("", 2, [])
    answer = about(one, warmth, 0, "huge")
    assert answer.reason == "it needs 17 places at once and the empty cluster has 16: add nodes, or make the gang smaller"
    assert (answer.free, answer.eta_seconds) == (None, None)


def test_a_turn_at_the_store() -> None:
    one, warmth = world(nodes=4)
    hold(warmth, 0)
    for at in range(3):
        one.submit(ask(f"g{at}", 1, at))
    one.decide(0, warmth)
    answer = about(one, warmth, 1, "g2")
    assert answer.reason == "only the store has ns/d2, and others' data is loaded first: its turn comes in 60 s"
    assert answer.eta_seconds == 60


def test_the_next_pass_and_one_that_runs() -> None:
    one, warmth = world()
    hold(warmth, 0, n2={0: 100})
    one.submit(ask("g", 8))
    assert about(one, warmth, 0).reason == "it fits now and starts with the next pass"
    one.decide(0, warmth)
    answer = about(one, warmth, 1)
    assert (answer.state, answer.reason, answer.nodes) == ("running", "it runs on n2 (8)", {"n2": 8})
    assert about(one, warmth, 1, "x").state == "unknown"


def test_unlike_pods_are_counted_by_the_hardest() -> None:
    one, warmth = world(nodes=2)
    members = [Member("a", Request((), 1, 500)), Member("b", Request((), 4, 1000))]
    for number in range(10):
        one.submit(ask(f"x{number}", 1, None))
    one.decide(0, warmth)
    one.submit(Ask(Gang("g", members, 2), "", 0.0))
    answer = about(one, warmth, 0)
    assert answer.failed["idle cards"] == 1  # four idle cards are left on the second node only
