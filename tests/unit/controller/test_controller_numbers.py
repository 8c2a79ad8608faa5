"""From what nodes say to a dataset's sizes, its update, where it is mounted: and nobody else is woken."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import controllerworld as w
import msgspec
import pytest

from forebay.api.fluid.status import DatasetStatus, Measured
from forebay.api.podconfig import FILE, decode, revision
from forebay.controller.copies import Copies
from forebay.controller.datasets.looking import Looker
from forebay.controller.datasets.mapping import datasets
from forebay.controller.pace import LARGE, SMALL, Pace
from forebay.kube.objects import Key
from forebay.kube.store import Broken
from forebay.runtimes import registry
from forebay.runtimes.engine import LEAVING, Found, Installation, ReaderFacts, Ref, Subject, WorkerFacts
from forebay.runtimes.forebay.planning import read

D, VIEW = Key("ns", "d"), Key("b", "v")
NOW = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
GIB = 1 << 30
SAID = "2026-11-27T12:00:00Z"


def served(**more: Any) -> dict[str, Any]:
    return {"ownedBytes": GIB, "capacityBytes": 4 * GIB, "totalBytes": 4 * GIB, "files": 10, "listed": True, **more}


def held(name: str = "d", namespace: str = "ns", **more: Any) -> dict[str, Any]:
    return {"namespace": namespace, "name": name, "role": "Owner", "tiers": [{"medium": "SSD", "bytes": GIB}], **more}


def cache(node: str, *holds: dict[str, Any]) -> dict[str, Any]:
    said = {
        "observedTime": "2026-11-27T11:59:00Z", "tiers": [], "cachedBytes": 0, "capacityBytes": 0, "cached": "", "capacity": "",
        "datasetCount": len(holds), "datasets": list(holds),
    }  # fmt: skip
    return {"kind": "NodeCache", "metadata": {"name": node}, "status": said}


def world(*objects: dict[str, Any]) -> Copies:
    copies = Copies()
    w.put(copies, w.dataset(), w.runtime(), *objects)
    return copies


WORKERS = (w.node("a"), w.node("b"), w.worker("d-worker-0", node="a"), w.worker("d-worker-1", node="b"))


def look(copies: Copies) -> tuple[Subject, Found]:
    looker = Looker(copies, Installation(default_engine="native"))
    subject = looker.subject(D)
    assert subject is not None
    return subject, looker.look(subject, NOW).found["forebay"]


def test_what_workers_say_reaches_their_pods_by_node() -> None:
    reads = {"bytes": 5, "localBytes": 3, "missedBytes": 2}
    _, found = look(
        world(
            *WORKERS,
            cache(
                "a", held(worker=served(revision="r", places=["/m"], storeBytes=7, loadedBytes=1)), held("other", worker=served())
            ),
            cache("b", held(worker=served(ownedBytes=5, drain="Refused"), reader=reads, mounted=True)),
            cache("c", held(role="Client", reader=reads, silent=True)),
        )
    )
    assert found.workers["d-worker-0"] == WorkerFacts(
        owned_bytes=GIB, capacity_bytes=4 * GIB, total_bytes=4 * GIB, files=10, listed=True, store_bytes=7, loaded_bytes=1,
        revision="r", places=("/m",),
    )  # fmt: skip
    assert found.workers["d-worker-1"].owned_bytes == 5
    assert found.workers["d-worker-1"].drain == "", "an order is given and judged by the annotation alone"
    assert found.readers == {n: ReaderFacts(local_bytes=3, missed_bytes=2) for n in "bc"}
    assert found.mounted == {"b": True, "c": False}


def test_a_worker_that_leaves_still_counts_and_an_order_is_still_an_order() -> None:
    leaving = w.worker("d-worker-1", node="b", **{LEAVING: "2026-11-27T11:59:30Z"})
    _, found = look(world(*WORKERS[:3], leaving, cache("b", held(worker=served()))))
    assert found.workers["d-worker-1"].drain == "Running"
    assert found.workers["d-worker-1"].owned_bytes == GIB
    assert not found.workers["d-worker-1"].silent
    assert "d-worker-0" not in found.workers, "its node says nothing"


def test_a_node_that_is_not_ready_is_not_believed() -> None:
    copies = world(*WORKERS, cache("a", held(worker=served(), mounted=True)), cache("b", held(worker=served())))
    w.put(copies, w.node("a", ready=False))
    _, found = look(copies)
    assert set(found.workers) == {"d-worker-1"}
    assert found.mounted == {}


def status(*caches: dict[str, Any]) -> Any:
    subject, found = look(world(*WORKERS, *caches))
    return registry.observe(subject, {"forebay": found}, "2026-11-27T12:00:00Z").dataset


def test_sizes_are_fluids_strings_and_numbers() -> None:
    assert status().ufs_total == status().file_num == "[Calculating]"
    assert status().measured is msgspec.UNSET
    partly = status(cache("a", held(worker=served(listed=False))))
    assert (partly.ufs_total, partly.file_num) == ("[Calculating]", "[Calculating]")
    assert partly.measured.total_bytes == 4 * GIB, "the numbers say how far it is"
    assert "cachedPercentage" not in partly.cache_states
    reads = {"bytes": 5, "localBytes": 30, "missedBytes": 70}
    whole = status(
        cache("a", held(worker=served(storeBytes=40, loadedBytes=15))),
        cache("b", held(worker=served(), reader=reads, mounted=True)),
    )
    assert (whole.ufs_total, whole.file_num) == ("4.00GiB", "10")
    assert whole.cache_states == {
        "cached": "2.00GiB", "cacheCapacity": "8.00GiB", "cachedPercentage": "50.0%",
        "cacheHitRatio": "75.0%", "localHitRatio": "30.0%", "remoteHitRatio": "45.0%",
    }  # fmt: skip
    assert (whole.measured.local_bytes, whole.measured.remote_bytes, whole.measured.store_bytes) == (30, 45, 25)


@pytest.mark.parametrize(
    ("missed", "fetched", "loaded", "ratio"),
    [(100, 100, 0, "0.0%"), (100, 100, 100, "100.0%"), (100, 50, 0, "50.0%"), (50, 500, 0, "0.0%"), (0, 0, 0, None)],
    ids=["cold", "loaded before", "by two nodes", "looked ahead", "nobody read"],
)
def test_hit_ratios(missed: int, fetched: int, loaded: int, ratio: str | None) -> None:
    reads = {"bytes": 5, "localBytes": 0, "missedBytes": missed}
    one = status(cache("a", held(worker=served(storeBytes=fetched, loadedBytes=loaded), reader=reads, mounted=True)))
    assert one.cache_states.get("cacheHitRatio") == ratio


def test_a_dataset_is_updating_while_a_worker_serves_the_mounts_of_before() -> None:
    subject, found = look(world(*WORKERS))
    assert read(subject).job is not None
    made = next(o for o in registry.plan(subject, {"forebay": found}, SAID).apply if o["kind"] == "ConfigMap")
    now = revision(decode(made["data"][FILE].encode()))  # what a worker says that has read the file
    old = cache("a", held(worker=served(revision="before", places=["/m"])))
    new = cache("b", held(worker=served(revision=now, places=["/m", "/n"])))
    subject, found = look(world(*WORKERS, old, new))
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "d"}, "status": {"phase": "Bound"}}
    there = {
        Ref("PersistentVolumeClaim", "ns", "d"): claim,
        Ref("PersistentVolume", "", "ns-d"): {"kind": "PersistentVolume", "metadata": {"name": "ns-d"}},
        Ref("StatefulSet", "ns", "d-worker"): {"kind": "StatefulSet", "metadata": {"name": "d-worker"}, "spec": {"replicas": 2}},
    }
    for caches, phase in (((old, new), "Updating"), ((new, {**new, "metadata": {"name": "a"}}), "Bound")):
        subject, found = look(world(*WORKERS, *caches))
        found = msgspec.structs.replace(found, objects=there)
        said = registry.observe(subject, {"forebay": found}, "2026-11-27T12:00:00Z").dataset
        assert said.phase == phase, said.conditions
        assert {c.type: c.status for c in said.conditions}["Ready"] == "True", "who reads goes on reading"


# --- who is woken


def woken(copies: Copies, obj: dict[str, Any]) -> set[Key]:
    found: set[Key] = set()
    copies.stores[obj["kind"]].subscribe(lambda change: found.update(datasets(obj["kind"], change, copies)))
    found.clear()
    w.put(copies, obj)
    return found


def test_of_a_nodes_datasets_only_those_that_changed_are_woken() -> None:
    others = [w.dataset(f"d{i}") for i in range(500)]
    all_ = [held(), *(held(f"d{i}") for i in range(500)), held("gone")]
    copies = world(*others, w.dataset("v", "b", "dataset://ns/d"), cache("a", *all_))
    assert woken(copies, cache("a", *all_)) == set(), "written again, the same"
    moved = [held(worker=served()), *all_[1:]]
    assert woken(copies, cache("a", *moved)) == {D, VIEW}
    assert woken(copies, cache("a", *moved[:-1])) == set(), "of a dataset that is gone there is nothing to do"
    assert woken(copies, cache("a", *moved[1:-1])) == {D, VIEW}, "it holds nothing any more"
    assert woken(copies, w.node("a", ready=False)) == {Key("ns", f"d{i}") for i in range(500)}, "what it said counts no more"


def test_a_nodecache_of_another_kind_harms_nobody() -> None:
    copies = world(*WORKERS, cache("a", held(worker=served())))
    broken = {"kind": "NodeCache", "metadata": {"name": "a"}, "status": {"observedTime": 5}}
    with pytest.raises(msgspec.ValidationError):
        w.thing(broken)
    copies.stores["NodeCache"].upsert(Key("", "a"), Broken("2", "it does not fit"))
    _, found = look(copies)
    assert found.workers == {}
    assert woken(copies, w.node("a", ready=False)) == {D}, "by its worker's pod"


# --- when numbers are written


def dataset_status(total: int, cached: int, phase: str = "Bound", *, listed: bool = True, local: int = 0) -> DatasetStatus:
    measured = Measured(total_bytes=total, files=1, listed=listed, cached_bytes=cached, local_bytes=local)
    return DatasetStatus(conditions=(), phase=phase, measured=measured)  # type: ignore[arg-type]


class Paced:
    """A status and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pace = Pace(lambda: self.now)
        self.obj: dict[str, Any] = {"kind": "Dataset", "metadata": {"name": "d", "namespace": "ns"}}

    def write(self, status_: DatasetStatus) -> float:
        wait = self.pace.wait(self.obj, status_)
        if not wait:
            self.obj["status"] = msgspec.json.decode(msgspec.json.encode(status_))
        return wait


def test_words_are_written_at_once_and_numbers_in_their_time() -> None:
    p = Paced()
    assert p.write(dataset_status(0, 0, listed=False)) == 0
    assert p.write(dataset_status(100 * GIB, 0)) == LARGE, "it was listed: a large step, but only just written"
    p.now += LARGE
    assert p.write(dataset_status(100 * GIB, 0)) == 0
    assert p.write(dataset_status(100 * GIB, 0)) == 0, "the same is no write"
    assert p.write(dataset_status(100 * GIB, GIB)) == LARGE
    assert p.write(dataset_status(100 * GIB, GIB - 1)) == SMALL
    p.now += SMALL - 1
    assert p.write(dataset_status(100 * GIB, 0, local=5)) == 1
    assert p.write(dataset_status(100 * GIB, 0, "Updating", local=5)) == 0
    assert p.write(dataset_status(100 * GIB, 0, "Updating", local=6)) == SMALL, "counted from any write"
    p.now += SMALL
    assert p.write(dataset_status(100 * GIB, 0, "Updating", local=6)) == 0


def test_each_object_has_its_own_pace_and_a_new_start_writes_at_once() -> None:
    p = Paced()
    p.write(dataset_status(GIB, 0))
    other = {**p.obj, "metadata": {"name": "e", "namespace": "ns"}}
    assert p.pace.wait(other, dataset_status(GIB, 1)) == 0
    assert Pace(lambda: p.now).wait(p.obj, dataset_status(GIB, 1)) == 0
