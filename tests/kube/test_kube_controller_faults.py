"""The controller among faults: a server that refuses, loses and restarts, a controller that is killed between any two writes;
and that nothing is written where nothing is new."""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from controllerlab import SMALL, Cluster, Running
from controlplane import ControlPlane
from controlplane_kit import until
from kubeproxy import Asked, CutAfter, Fault, KubeProxy, Lose, Say, status

from forebay.kube.objects import Key

pytestmark = pytest.mark.timeout(600)


def name(text: str, to: str) -> str:
    return text.replace("name: d,", f"name: {to},")


def writes(proxy: KubeProxy) -> list[Asked]:
    return [a for a in proxy.asked if a.verb != "GET" and "/leases" not in a.path]


def test_where_nothing_changes_nothing_is_written(cluster: Cluster, site: ControlPlane, front: KubeProxy, space: str) -> None:
    """A pass every half second over each dataset, and watches cut; then the same of a controller that starts anew."""
    keys = [Key(space, f"d{i}") for i in range(4)]
    with Running(front.endpoint, resync=0.5) as running:
        for key in keys:
            cluster.apply(name(SMALL, key.name).replace("SPACE", space))
        for key in keys:
            cluster.serve(key, 2)
        for key in keys:
            until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))  # noqa: B023 - called at once
        quiet_since(front)
        front.asked.clear()
        passes = running.controller.workers.statistics().handed_out
        front.cut_watches()
        until(lambda: running.controller.workers.statistics().handed_out > passes + 200, 300, "two hundred passes")
        assert [(a.verb, a.path, a.body) for a in writes(front)] == []
    front.asked.clear()
    with Running(front.endpoint, resync=0.5) as running:
        until(lambda: running.controller.workers.statistics().handed_out > 40, 120, "forty passes")
        assert [(a.verb, a.path, a.body) for a in writes(front)] == []
        for key in keys:
            cluster.delete("Dataset", key)
            until(lambda: cluster.gone("Dataset", key) and not cluster.left(key), 60, lambda: cluster.left(key))  # noqa: B023


def quiet_since(proxy: KubeProxy, seconds: float = 3.0) -> None:
    """Until nothing was written for a while."""
    seen, since = len(writes(proxy)), time.monotonic()
    end = since + 120
    while time.monotonic() - since < seconds:
        assert time.monotonic() < end, "writing does not end"
        if len(writes(proxy)) != seen:
            seen, since = len(writes(proxy)), time.monotonic()
        time.sleep(0.05)


class Killed:
    """Lets `after` writes through and none after them: whoever writes is as good as dead from then on."""

    def __init__(self, proxy: KubeProxy, after: int, *, lose: bool) -> None:
        self.proxy, self.after, self.lose = proxy, after, lose
        self.seen = 0
        self.struck = False
        proxy.plan = self.plan

    def plan(self, asked: Asked) -> Fault | None:
        if asked.verb == "GET":
            return None
        self.seen += 1
        if self.seen < self.after:
            return None
        first, self.struck = not self.struck, True
        return Lose() if self.lose and first else Say(503, {"Retry-After": "60"}, status(503, "ServiceUnavailable"))


@pytest.mark.parametrize("lose", [False, True], ids=["before", "after"])
def test_killed_between_any_two_writes(cluster: Cluster, front: KubeProxy, space: str, lose: bool) -> None:
    """Each life of the dataset is cut one write later than the one before, while it is made and while it is taken away; a new
    controller goes on. `lose`: the write was carried out, and nobody heard of it."""
    after, more = 1, True
    while more:
        more = cut_short(cluster, front, Key(space, f"d{after}"), after, lose=lose)
        after += 1
        assert after < 60
    assert after > 12, "hardly anything was written"


def cut_short(cluster: Cluster, front: KubeProxy, key: Key, after: int, *, lose: bool) -> bool:
    """One life. Whether so many writes were made in it."""
    text = name(SMALL, key.name).replace("SPACE", key.namespace)
    made = killed(front, after, lose=lose, do=lambda: cluster.apply(text))
    with Running(front.endpoint):
        cluster.serve(key, 2)
        until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))
    taken = killed(front, after, lose=lose, do=lambda: cluster.delete("Dataset", key))
    with Running(front.endpoint):
        until(lambda: cluster.gone("Dataset", key), 60, lambda: cluster.read("Dataset", key))
        until(lambda: cluster.gone("CacheRuntime", key), 60, lambda: cluster.read("CacheRuntime", key))
        until(lambda: not cluster.left(key), 60, lambda: f"write {after}: left {cluster.left(key)}")
    return made or taken


def killed(proxy: KubeProxy, after: int, *, lose: bool, do: Any) -> bool:
    """Runs a controller until its write `after`; False where it came to rest before."""
    death = Killed(proxy, after, lose=lose)
    try:
        with Running(proxy.endpoint) as running:
            do()
            end = time.monotonic() + 60
            while not death.struck:
                running.settle(quiet=3.0, unless=lambda: death.struck)
                if death.struck or time.monotonic() > end:
                    break
                if running.controller.workers.statistics().handed_out:
                    break
        return death.struck
    finally:
        proxy.plan = lambda asked: None


def test_through_faults_and_restarts_every_dataset_ends_as_it_should(
    cluster: Cluster, site: ControlPlane, front: KubeProxy, space: str
) -> None:
    random, calm = Random(7), False
    kinds: list[Fault] = [
        Lose(),
        Say(500, body=status(500, "InternalError")),
        Say(429, {"Retry-After": "0"}, status(429, "TooManyRequests")),
        Say(409, body=status(409, "Conflict")),
        Say(410, body=status(410, "Expired")),
    ]

    def plan(asked: Asked) -> Fault | None:
        if calm or random.random() < 0.85:
            return None
        return CutAfter(random.randrange(10)) if asked.watch else random.choice(kinds)

    front.plan = plan
    keys = [Key(space, f"d{i}") for i in range(6)]
    with Running(front.endpoint) as running:
        for key in keys:
            cluster.apply(name(SMALL, key.name).replace("SPACE", space))
        for key in keys[:3]:
            cluster.serve(key, 2, 180)
        site.kill_api_server()
        site.start_api_server()
        for key in keys[3:]:
            cluster.serve(key, 2, 180)
        for key in keys[:3]:
            cluster.delete("Dataset", key)
        for key in keys[3:]:
            until(lambda: cluster.phase(key) == "Bound", 180, lambda: cluster.status(key))  # noqa: B023
        for key in keys[:3]:
            until(lambda: cluster.gone("Dataset", key), 180, lambda: cluster.read("Dataset", key))  # noqa: B023
        calm = True
        running.settle(seconds=180)
        for key in keys[3:]:
            cluster.delete("Dataset", key)
        for key in keys:
            until(lambda: cluster.gone("Dataset", key) and not cluster.left(key), 180, lambda: cluster.left(key))  # noqa: B023
    assert sum(front.counts.values()) > 20, front.counts


@pytest.fixture(autouse=True)
def calm_again(front: KubeProxy) -> Iterator[None]:
    yield
    front.plan = lambda asked: None
