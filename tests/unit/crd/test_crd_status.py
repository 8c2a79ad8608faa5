"""What we write under `.status`: it encodes to what the schema asks for, whole and at its smallest."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from crd_admission import read_crds, schema_errors, schema_of

from forebay.api import conditions
from forebay.api.conditions import Condition, find, merge
from forebay.api.crd.kinds import KINDS
from forebay.api.fluid import kinds as fluid
from forebay.api.fluid import status
from forebay.api.grant import GrantSpec, GrantStatus
from forebay.api.hints.datasethints import MAX_NODES, MAX_ZONES, DatasetHintsStatus, NodeHint, ZoneHint
from forebay.api.hints.nodecache import (
    MAX_DATASETS,
    Bandwidth,
    HeldBytes,
    HeldDataset,
    NodeCacheStatus,
    Read,
    Served,
    TierBytes,
    Warming,
)

CRDS = {kind: crd for (_, kind), crd in read_crds().items()}
NOW, LATER = "2026-11-27T04:00:00Z", "2026-11-27T05:00:00Z"
READY = Condition(type="Ready", status="True", reason="DatasetReady", message="The ddc runtime is ready.", observed_generation=3)
MEASURED = status.Measured(total_bytes=5 << 40, files=7, listed=True, cached_bytes=1 << 40, capacity_bytes=2 << 40)
MOUNT = {"mountPoint": "s3://bucket/x", "name": "a", "options": {"k": "v"}, "readOnly": True}
AFFINITY: dict[str, Any] = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}]
    }
}
COUNTS = {f.name: 1 for f in msgspec.structs.fields(status.RuntimeStatus) if f.required and "number" in f.name}


def errors(kind: str, part: str, value: msgspec.Struct) -> list[str]:
    schema = schema_of(CRDS[kind])["properties"][part]
    return schema_errors(json.loads(msgspec.json.encode(value)), schema)


def runtime(**more: Any) -> status.RuntimeStatus:
    return status.RuntimeStatus(value_file="", master_phase="", worker_phase="Ready", fuse_phase="NotReady", **{**COUNTS, **more})


def component(**more: int) -> status.ComponentStatus:
    return status.ComponentStatus(phase="PartialReady", reason="r", message="m", **more)


WHOLE: dict[str, msgspec.Struct] = {
    "Dataset": status.DatasetStatus(
        conditions=merge((), [READY], NOW),
        phase="Bound",
        observed_generation=3,
        engine="forebay",
        mounts=(MOUNT,),
        ufs_total="5.00TiB",
        file_num="7",
        cache_states=dict.fromkeys(status.CACHE_STATES, "1.00GiB"),
        measured=MEASURED,
        hcfs=status.Hcfs(endpoint="x"),
        runtimes=(status.BoundRuntime(name="d", namespace="n", category="Accelerate", type="cache", master_replicas=1),),
        operation_ref={"DataLoad": "a,b"},
        dataset_ref=("team-b/view",),
        data_load_ref="a",
        data_backup_ref="b",
    ),
    "AlluxioRuntime": runtime(
        conditions=merge((), [READY], NOW, "last_probe_time"),
        measured=MEASURED,
        api_gateway=status.ApiGateway(endpoint="x"),
        mount_time=NOW,
        mounts=(MOUNT,),
        cache_affinity=AFFINITY,
        selector="a=b",
    ),
    "CacheRuntime": status.CacheRuntimeStatus(
        phase="Ready",
        mount_time=NOW,
        cache_affinity=AFFINITY,
        measured=MEASURED,
        master=component(),
        worker=component(desired_replicas=3, ready_replicas=2),
        client=component(),
    ),
    "DataLoad": status.OperationStatus(
        phase="Executing",
        duration="Unfinished",
        conditions=(),
        infos={"a": "b"},
        progress=status.Progress(total_bytes=10, done_bytes=5, percent=50, bytes_per_second=1, eta_seconds=5),
        last_schedule_time=NOW,
        waiting_for=status.WaitingFor(operation_complete=True),
        node_affinity=AFFINITY,
    ),
    "NodeCache": NodeCacheStatus(
        observed_time=NOW,
        tiers=(TierBytes(medium="SSD", capacity_bytes=2, used_bytes=1),),
        cached_bytes=1,
        capacity_bytes=2,
        cached="1B",
        capacity="2B",
        dataset_count=1,
        datasets=(
            HeldDataset(
                namespace="n",
                name="d",
                role="Owner",
                tiers=(HeldBytes(medium="SSD", bytes=1),),
                mounted=True,
                warming=Warming(remaining_bytes=3),
            ),
        ),
        bandwidth=Bandwidth(store_bytes_per_second=1),
        conditions=merge((), [Condition(type="Ready", status="Unknown")], NOW),
    ),
    "DatasetHints": DatasetHintsStatus(
        observed_time=NOW,
        total_bytes=4,
        cached_bytes=1,
        total="4B",
        cached="1B",
        cached_percent=25,
        node_count=2,
        nodes=(NodeHint(name="node-a", bytes=1, mounted=True, eta_seconds=3),),
        other_bytes=1,
        zones=(ZoneHint(name="z", bytes=1, nodes=1),),
    ),
    "DatasetGrant": GrantStatus(conditions=merge((), [READY], NOW), observed_generation=1, referrers=("b/view",)),
}
SMALLEST: dict[str, msgspec.Struct] = {
    "Dataset": status.DatasetStatus(conditions=()),
    "AlluxioRuntime": runtime(),
    "CacheRuntime": status.CacheRuntimeStatus(),
    "DataLoad": status.OperationStatus(phase="", duration="", conditions=()),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_status_fits(kind: str) -> None:
    assert errors(kind, "status", WHOLE[kind]) == []


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_status_is_read_back(kind: str) -> None:
    value = WHOLE[kind]
    assert msgspec.json.decode(msgspec.json.encode(value), type=type(value)) == value


@pytest.mark.parametrize("kind", SMALLEST)
def test_the_smallest_status_carries_what_is_required(kind: str) -> None:
    encoded = json.loads(msgspec.json.encode(SMALLEST[kind]))
    assert set(encoded) == set(schema_of(CRDS[kind])["properties"]["status"].get("required", []))
    assert errors(kind, "status", SMALLEST[kind]) == []


def test_all_kinds_with_one_block_share_it() -> None:
    for group in (
        [k for k in fluid.RUNTIMES if k != "CacheRuntime"],
        ["DataLoad", "DataMigrate", "DataBackup", "DataProcess"],
    ):
        blocks = [schema_of(CRDS[k])["properties"]["status"] for k in group]
        assert all(block == blocks[0] for block in blocks)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.status and k.status.fields], ids=lambda k: k.kind)
def test_every_status_has_conditions_by_type_with_their_generation(kind: Any) -> None:
    node = schema_of(CRDS[kind.kind])["properties"]["status"]["properties"]["conditions"]
    assert node["x-kubernetes-list-map-keys"] == ["type"]
    assert node["items"]["properties"]["observedGeneration"]["format"] == "int64"
    assert node["items"]["properties"]["status"]["enum"] == ["False", "True", "Unknown"]


def test_numbers_stand_beside_the_strings() -> None:
    for kind in ("Dataset", *fluid.RUNTIMES):
        properties = schema_of(CRDS[kind])["properties"]["status"]["properties"]["measured"]["properties"]
        assert {"totalBytes", "files", "cachedBytes", "capacityBytes", "localBytes", "remoteBytes", "storeBytes"} <= set(
            properties
        )
        assert all(p["type"] in ("integer", "boolean") for p in properties.values())


def test_bad_values_are_seen() -> None:
    assert errors("Dataset", "status", msgspec.structs.replace(WHOLE["Dataset"], phase="Fine"))
    assert errors("AlluxioRuntime", "status", runtime(worker_number_ready=-1))
    assert errors("AlluxioRuntime", "status", runtime(mount_time="yesterday"))
    twice = status.DatasetStatus(conditions=(READY, READY))
    assert any("Duplicate" in e for e in errors("Dataset", "status", twice))


def test_grants() -> None:
    assert errors("DatasetGrant", "spec", GrantSpec(dataset="d", namespaces=("a",), expires=NOW)) == []
    assert errors("DatasetGrant", "spec", GrantSpec(dataset="d", namespace_selector={})) == []
    assert json.loads(msgspec.json.encode(GrantSpec(dataset="d", namespace_selector={})))["namespaceSelector"] == {}
    assert errors("DatasetGrant", "spec", GrantSpec(dataset="d", namespaces=("A_b",)))


def test_hints_are_bounded() -> None:
    """The largest objects that the schemas allow, with the longest names, are far from the limit of one object."""
    long = "x" * 63
    held = tuple(
        HeldDataset(
            namespace=long,
            name=f"{long[:59]}{i:04}",
            role="Owner",
            tiers=tuple(HeldBytes(medium=m, bytes=1 << 62) for m in ("MEM", "SSD", "HDD")),
            version="v" * 128,
            mounted=True,
            warming=Warming(remaining_bytes=1 << 62, bytes_per_second=1 << 40, eta_seconds=1 << 31),
            silent=True,
            worker=Served(
                owned_bytes=1 << 60,
                capacity_bytes=1 << 60,
                total_bytes=1 << 60,
                files=1 << 60,
                listed=True,
                store_bytes=1 << 60,
                loaded_bytes=1 << 60,
                revision="r" * 64,
                places=("/p" * 32,) * 4,
                drain="Running",
            ),
            reader=Read(bytes=1 << 60, local_bytes=1 << 60, missed_bytes=1 << 60),
        )
        for i in range(MAX_DATASETS)
    )
    cache = msgspec.structs.replace(WHOLE["NodeCache"], datasets=held)
    assert errors("NodeCache", "status", cache) == []
    assert len(msgspec.json.encode(cache)) < 768 << 10
    more = msgspec.structs.replace(cache, datasets=(*held, held[0]))
    assert errors("NodeCache", "status", more)
    hints = msgspec.structs.replace(
        WHOLE["DatasetHints"],
        nodes=tuple(
            NodeHint(name=f"{'n' * 249}{i:04}", bytes=1 << 62, mounted=True, eta_seconds=1, read_bytes_per_second=1)
            for i in range(MAX_NODES)
        ),
        zones=tuple(ZoneHint(name=f"{long[:59]}{i:04}", bytes=1 << 62, nodes=1) for i in range(MAX_ZONES)),
    )
    assert errors("DatasetHints", "status", hints) == []
    assert len(msgspec.json.encode(hints)) < 64 << 10


# --- Fluid's words for our numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desired", "ready", "phase"),
    [(0, 0, "Ready"), (3, 0, "NotReady"), (3, 1, "PartialReady"), (3, 3, "Ready"), (2, 3, "Ready"), (0, 1, "Ready")],
)
def test_phases(desired: int, ready: int, phase: str) -> None:
    assert status.phase_of(desired, ready) == phase


def test_strings_have_fluids_form() -> None:
    measured = status.Measured(
        total_bytes=3 << 30,
        files=12,
        listed=True,
        cached_bytes=3 << 29,
        capacity_bytes=10 << 30,
        local_bytes=60,
        remote_bytes=20,
        store_bytes=20,
    )
    assert status.totals(measured) == ("3.00GiB", "12")
    states = status.cache_states(measured)
    assert states == {
        "cached": "1.50GiB",
        "cacheCapacity": "10.00GiB",
        "cachedPercentage": "50.0%",
        "cacheHitRatio": "80.0%",
        "localHitRatio": "60.0%",
        "remoteHitRatio": "20.0%",
    }
    assert set(states) <= set(status.CACHE_STATES)
    for text in (*status.totals(measured)[:1], states["cached"], status.cache_states(status.Measured())["cached"]):
        assert re.fullmatch(r"(\d+(\.\d+)*) ?([kKmMgGtTpP])?[iI]?[bB]?", text)  # how Fluid's clients parse a size


def test_what_is_not_known_is_not_said() -> None:
    listing = status.Measured(total_bytes=5, cached_bytes=1)
    assert status.totals(listing) == ("[Calculating]", "[Calculating]")
    assert status.cache_states(listing) == {"cached": "1B", "cacheCapacity": "0B"}
    empty = status.Measured(listed=True)
    assert status.totals(empty) == ("0B", "0")
    assert status.cache_states(empty)["cachedPercentage"] == "0.0%"


# --- conditions -----------------------------------------------------------------------------------------------------


def test_a_pass_that_finds_nothing_new_changes_nothing() -> None:
    known = merge((), [READY], NOW)
    assert merge(known, [READY], LATER) == known


def test_the_transition_moves_with_the_status_alone() -> None:
    known = merge((), [READY], NOW)
    (said,) = merge(known, [msgspec.structs.replace(READY, message="other")], LATER)
    assert (said.last_transition_time, said.last_update_time) == (NOW, LATER)
    (turned,) = merge(known, [msgspec.structs.replace(READY, status="False")], LATER)
    assert (turned.last_transition_time, turned.last_update_time) == (LATER, LATER)


def test_a_new_generation_is_news() -> None:
    known = merge((), [READY], NOW)
    (again,) = merge(known, [msgspec.structs.replace(READY, observed_generation=4)], LATER)
    assert (again.observed_generation, again.last_transition_time) == (4, NOW)


def test_other_types_stay() -> None:
    other = Condition(type="RuntimeScheduled", status="True")
    known = merge(merge((), [other], NOW, "last_probe_time"), [READY], LATER)
    assert [c.type for c in known] == ["RuntimeScheduled", "Ready"]
    first = find(known, "RuntimeScheduled")
    assert first is not None
    assert (first.last_probe_time, first.last_update_time) == (NOW, "")
    assert find(known, "Absent") is None
    assert conditions.merge(known, [], LATER) == known
