"""Room that is made by deleting pods: counted as the planner would plan it, also for cards of pods that were there at first."""

from __future__ import annotations

import random
from typing import Any

import pytest
from livekit import bound, core, node, pod

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.live.instructions import Bind, Delete
from forebay.scheduler.live.preempting import CountedRoom, PlannedRoom

GPU = "nvidia.com/gpu"


def deleted(instructions: Any) -> set[str]:
    return {one.pod.name for one in instructions if isinstance(one, Delete)}


def test_pods_with_cards_yield_though_they_were_bound_before_their_node_had_any() -> None:
    """Their kind on the node was counted by how many cards its node had then, and thought away by how many they have now."""
    c = core()
    c.apply("Node", None, node("n", 8, **{GPU: "2"}))
    for name in ("a", "b"):
        c.apply("Pod", None, bound(pod(name, limits={GPU: "1"}), "n"))
    c.decide(0.0)
    c.apply("Pod", None, pod("urgent", limits={GPU: "1"}, priority=9))
    done = c.decide(1.0)
    assert len(deleted(done)) == 1
    assert all("failed" not in job.reason for job in c.queue.jobs.values())


@pytest.mark.parametrize("seed", range(12))
def test_what_is_counted_is_what_would_be_planned(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    asked = list[tuple[int, int]]()
    count = CountedRoom.fitting

    def both(room: CountedRoom) -> int:
        counted = count(room)
        asked.append((counted, min(room.wanted, len(room.places()))))
        return counted

    monkeypatch.setattr(CountedRoom, "fitting", both)
    kind: dict[str, str] = [{GPU: "4"}, {"aliyun.com/gpu-mem": "32", "aliyun.com/gpu-count": "2"}, {}][seed % 3]
    ask = [lambda n: {GPU: str(n)}, lambda n: {"aliyun.com/gpu-mem": str(4 * n)}, lambda n: {}][seed % 3]
    c, pods = core(), dict[str, Pod]()
    for number in range(6):
        c.apply("Node", None, node(f"n{number}", rng.randint(6, 12), **kind))
    for number in range(40):
        pods[f"p{number}"] = pod(f"p{number}", rng.randint(1, 3), limits=ask(rng.randint(1, 2)), priority=rng.randint(0, 2))
        c.apply("Pod", None, pods[f"p{number}"])
    for bind in [one for one in c.decide(0.0) if isinstance(one, Bind)]:
        c.apply("Pod", pods[bind.pod.name], bound(pods[bind.pod.name], bind.node, bind.annotations))
    asked.clear()
    for member in range(6):  # one gang: places that are held for it count against the next one
        c.apply("Pod", None, pod(f"g-{member}", 2, ("g", 6), ask(1 + seed % 2), priority=5))
    assert deleted(c.decide(60.0))
    assert asked
    assert all(counted == planned for counted, planned in asked)


def test_where_the_planner_sees_less_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that is too large makes nobody go in vain."""
    c = core()
    c.apply("Node", None, node("n", 4))
    for name in ("a", "b"):
        c.apply("Pod", None, bound(pod(name, 2), "n"))
    monkeypatch.setattr(CountedRoom, "fitting", lambda room: room.wanted)
    planned = list[int]()
    really = PlannedRoom.fitting
    monkeypatch.setattr(PlannedRoom, "fitting", lambda room: planned.append(1) or really(room))
    c.apply("Pod", None, pod("urgent", 2, priority=9))
    assert len(deleted(c.decide(1.0))) == 1
    assert planned
