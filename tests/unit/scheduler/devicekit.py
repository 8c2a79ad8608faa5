"""Cards, asks and pods for tests: small, mixed and odd."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

from forebay.scheduler.devices.ask import Ask, PodAsk
from forebay.scheduler.devices.card import Device, Rules, Seat
from forebay.scheduler.devices.pod import Pod, read_pod
from forebay.scheduler.devices.vendors.kinds import GIB
from forebay.scheduler.quota.inputs.check import Findings


def gpu(index: int, memory: int = 16, model: str = "Tesla T4", **more: Any) -> Device:
    return Device(f"GPU-{index}", index, "gpu", model, memory * GIB, **more)


def cut(index: int, model: str = "A100-80GB", **more: Any) -> Device:
    return Device(f"MIG-{index}", index, "gpu", f"NVIDIA {model}", 80 * GIB, layout=model, **more)


def npu(index: int, **more: Any) -> Device:
    return Device(f"NPU-{index}", index, "npu", "Ascend910B3", 64 * GIB, 20, 7, **more)


def one(**ask: Any) -> PodAsk:
    """A pod of one container `c` that asks for devices of one kind."""
    return PodAsk((Ask("c", **{"kind": "gpu", **ask}),), (Seat("c"),))


def several(*asks: Ask, together: bool = False) -> PodAsk:
    seats = dict.fromkeys(Seat(ask.container, ask.role) for ask in asks)
    order = {"init": 0, "sidecar": 0, "app": 1}
    return PodAsk(asks, tuple(sorted(seats, key=lambda seat: order[seat.role])), together=together)


def pod(
    limits: Mapping[str, Mapping[str, Any]],
    *,
    init: Mapping[str, Mapping[str, Any]] | None = None,
    sidecars: Mapping[str, Mapping[str, Any]] | None = None,
    findings: Findings | None = None,
    **meta: Any,
) -> Pod:
    """A pod object, read. `limits`: container -> limits; `meta`: labels, annotations, node, claims (alias -> object name)."""
    early = [{"name": name, "resources": {"limits": dict(asked)}} for name, asked in (init or {}).items()]
    early += [
        {"name": name, "restartPolicy": "Always", "resources": {"limits": dict(asked)}}
        for name, asked in (sidecars or {}).items()
    ]
    value = {
        "metadata": {
            "uid": meta.get("uid", "u1"),
            "namespace": "team",
            "name": meta.get("name", "p"),
            "labels": meta.get("labels", {}),
            "annotations": meta.get("annotations", {}),
        },
        "spec": {
            "nodeName": meta.get("node", ""),
            "initContainers": early,
            "containers": [{"name": name, "resources": {"limits": dict(asked)}} for name, asked in limits.items()],
            "resourceClaims": [{"name": a, "resourceClaimName": b} for a, b in meta.get("claims", {}).items()],
        },
    }
    return read_pod(value, findings or Findings())


RULES = (
    Rules(),
    Rules(whole=False, cores="never"),
    Rules(shares=False),
    Rules(mixed=False),
    Rules(whole=False, cores="must"),
    Rules(max_pods=2, cards_by="spread"),
    Rules(cards_by="binpack"),
)


@st.composite
def devices(draw: st.DrawFn) -> tuple[Device, ...]:
    made = list[Device]()
    for index in range(draw(st.integers(0, 5))):
        which = draw(st.sampled_from(["t4", "t4", "a10", "cut", "cut30", "static", "npu", "unknown"]))
        healthy = draw(st.integers(0, 9)) > 0
        if which in ("t4", "a10"):
            memory, model = (16, "Tesla T4") if which == "t4" else (24, "NVIDIA A10")
            cores, tenants = draw(st.sampled_from([100, 100, 0])), draw(st.sampled_from([0, 3]))
            made.append(gpu(index, memory, model, healthy=healthy, cores=cores, tenants=tenants, numa=index // 2))
        elif which == "cut":
            made.append(cut(index, healthy=healthy))
        elif which == "cut30":
            made.append(cut(index, "A30"))
        elif which == "static":
            made.append(cut(index, instances=(("3g.40gb", 4), ("1g.10gb", 0), ("1g.10gb", 1))))
        elif which == "npu":
            made.append(npu(index, healthy=healthy))
        else:
            made.append(Device(f"X-{index}", index, "gpu", "", 0, 0))
    return tuple(made)


@st.composite
def asks(draw: st.DrawFn, container: str = "c", role: Any = "app") -> Ask:
    which = draw(st.sampled_from(["memory", "memory", "percent", "both", "whole", "alone", "profile", "npu", "npu whole"]))
    cards = draw(st.sampled_from([1, 1, 1, 2]))
    amount = draw(st.sampled_from([1, 2, 4, 8, 12, 20])) * GIB
    cores = draw(st.sampled_from([10, 25, 50, 100]))
    match which:
        case "memory":
            return Ask(container, "gpu", role, cards, amount)
        case "percent":
            return Ask(
                container,
                "gpu",
                role,
                cards,
                percent=draw(st.sampled_from([10, 33, 50, 100])),
                cores=draw(st.sampled_from([0, 50])),
            )
        case "both":
            return Ask(container, "gpu", role, cards, amount, cores=cores)
        case "whole":
            return Ask(container, "gpu", role, cards, whole=True)
        case "alone":
            return Ask(container, "gpu", role, cards, amount, alone=True)
        case "profile":
            names = ["1g.10gb", "1g.10gb+me", "2g.20gb", "3g.40gb", "7g.80gb", "1g.6gb", "2g.12gb", "1g.20gb"]
            return Ask(container, "gpu", role, profile=draw(st.sampled_from(names)))
        case "npu":
            return Ask(container, "npu", role, 1, draw(st.sampled_from([4, 16, 30, 60])) * GIB, model="Ascend910B3")
    return Ask(container, "npu", role, cards, whole=True, model="Ascend910B3")


@st.composite
def pod_asks(draw: st.DrawFn) -> PodAsk:
    """Mostly pods of one container; some of several, with init containers and sidecars."""
    if draw(st.integers(0, 2)):
        ask = draw(asks())
        types = draw(st.sampled_from([(), (), (), ("T4",)]))
        ids = draw(st.sampled_from([(), (), (), ("GPU-0", "MIG-1")]))
        return PodAsk((ask,), (Seat("c"),), types=types, ids=ids, cards_by=draw(st.sampled_from(["", "spread"])))
    if draw(st.booleans()):  # ACK: all containers on the same cards
        cores, cards = draw(st.sampled_from([0, 5, 30])), draw(st.sampled_from([1, 2]))
        sizes = draw(st.lists(st.sampled_from([1, 2, 5]), min_size=2, max_size=3))
        made = [Ask(f"c{n}", "gpu", "app", cards, size * GIB, cores=cores) for n, size in enumerate(sizes)]
        return PodAsk(tuple(made), tuple(Seat(ask.container) for ask in made), "ack", together=True)
    seats = [Seat("i", "init"), Seat("s", "sidecar"), Seat("j", "init"), Seat("a"), Seat("b")]
    chosen = draw(st.lists(st.sampled_from(seats), min_size=2, max_size=4, unique=True))
    made = [draw(asks(seat.container, seat.role)) for seat in seats if seat in chosen]
    return PodAsk(tuple(made), tuple(seats))


def random_cards(chance: random.Random, count: int) -> tuple[Device, ...]:
    """Cards of one node, for long runs: shared, cut, of several sizes."""
    kinds: list[Callable[[int], Device]] = [gpu, lambda n: gpu(n, 24, "NVIDIA A10", tenants=4), cut, lambda n: cut(n, "A30")]
    return tuple(chance.choice(kinds)(index) for index in range(count))


def random_ask(chance: random.Random) -> PodAsk:
    """What one pod asks, for long runs."""
    which = chance.randrange(6)
    if which == 0:
        return one(cards=chance.choice([1, 2]), whole=True)
    if which == 1:
        return one(profile=chance.choice(["1g.10gb", "1g.10gb+me", "2g.20gb", "3g.40gb", "1g.6gb", "4g.24gb"]))
    if which == 2:
        init = Ask("i", "gpu", "init", memory=chance.choice([2, 12]) * GIB)
        return several(init, Ask("a", "gpu", memory=chance.choice([1, 6]) * GIB, cores=chance.choice([0, 20])))
    return one(memory=chance.choice([1, 2, 4, 8]) * GIB, cores=chance.choice([0, 0, 10, 50]), cards=chance.choice([1, 1, 2]))


def node(labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None, **have: Any) -> dict[str, Any]:
    resources = {name.replace("__", "/").replace("_", "-"): amount for name, amount in have.items()}
    meta = {"name": "n1", "labels": labels or {}, "annotations": annotations or {}}
    return {"metadata": meta, "status": {"allocatable": resources, "capacity": resources}}
