"""What pods and nodes say about devices, by API: meanings, refusals, and contradictions, each with a sentence."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from devicekit import node, pod
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.scheduler.devices.arrays import Cards
from forebay.scheduler.devices.ask import Ask, PodAsk
from forebay.scheduler.devices.ecosystems import ack
from forebay.scheduler.devices.ecosystems.inputs import Settings, read_ask, read_node, read_record
from forebay.scheduler.devices.ledger import Ledger
from forebay.scheduler.devices.vendors.kinds import GIB, MIB
from forebay.scheduler.pods.fill import Fill
from forebay.scheduler.quota.inputs.check import Findings


def read(limits: dict[str, dict[str, Any]], **more: Any) -> tuple[PodAsk | None, list[str]]:
    findings = Findings()
    claims = more.pop("objects", {})
    settings = more.pop("settings", Settings())
    return read_ask(pod(limits, findings=findings, **more), findings, claims=claims, settings=settings), [
        str(p) for p in findings.problems
    ]


def only(limits: dict[str, Any], **more: Any) -> Ask:
    ask, problems = read({"c": limits}, **more)
    assert problems == []
    assert ask is not None
    assert len(ask.asks) == 1
    return ask.asks[0]


@pytest.mark.parametrize(
    ("limits", "meta", "want"),
    [
        ({"aliyun.com/gpu-mem": 3}, {}, {"memory": 3 * GIB}),
        ({"aliyun.com/gpu-mem": 3}, {"settings": Settings(unit=MIB)}, {"memory": 3 * MIB}),
        ({"aliyun.com/gpu-mem": 8, "aliyun.com/gpu-core.percentage": 30}, {}, {"memory": 8 * GIB, "cores": 30}),
        ({"aliyun.com/gpu-mem": 8}, {"labels": {"aliyun.com/gpu-count": "2"}}, {"memory": 4 * GIB, "cards": 2}),
        ({"aliyun.com/gpu-mem": 8}, {"labels": {"aliyun.com/gpu-count": "0"}}, {"memory": 8 * GIB}),
        (
            {"aliyun.com/gpu-mem": 8},
            {"labels": {"ack.gpushare.placement": "require-whole-device"}},
            {"memory": 8 * GIB, "alone": True},
        ),
        ({"aliyun.com/gpu": 2}, {}, {"cards": 2, "whole": True}),
        ({"nvidia.com/gpu": 2}, {}, {"cards": 2, "whole": True}),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}, {}, {"memory": 3000 * MIB}),
        ({"nvidia.com/gpumem": 3000}, {}, {"memory": 3000 * MIB}),
        (
            {"nvidia.com/gpu": 2, "nvidia.com/gpumem-percentage": 50, "nvidia.com/gpucores": 30},
            {},
            {"cards": 2, "percent": 50, "cores": 30},
        ),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpucores": 30}, {}, {"percent": 100, "cores": 30}),
        ({"nvidia.com/mig-1g.5gb": 1}, {}, {"profile": "1g.5gb"}),
        ({"nvidia.com/mig-1g.5gb.me": 1}, {}, {"profile": "1g.5gb+me"}),
        ({"koordinator.sh/gpu": 50}, {}, {"percent": 50, "cores": 50}),
        ({"koordinator.sh/gpu": 200}, {}, {"cards": 2, "percent": 100, "cores": 100}),
        ({"koordinator.sh/gpu-core": 50, "koordinator.sh/gpu-memory": "8Gi"}, {}, {"memory": 8 * GIB, "cores": 50}),
        ({"koordinator.sh/gpu-memory-ratio": 25}, {}, {"percent": 25}),
        (
            {"koordinator.sh/gpu.shared": 2, "koordinator.sh/gpu-core": 100, "koordinator.sh/gpu-memory": "16Gi"},
            {},
            {"cards": 2, "memory": 8 * GIB, "cores": 50},
        ),
        (
            {"huawei.com/Ascend910B3": 1, "huawei.com/Ascend910B3-memory": 16384},
            {},
            {"kind": "npu", "memory": 16 * GIB, "model": "Ascend910B3"},
        ),
        ({"huawei.com/Ascend910B3": 8}, {}, {"kind": "npu", "cards": 8, "whole": True, "model": "Ascend910B3"}),
        ({"huawei.com/Ascend910C": 1}, {}, {"kind": "npu", "cards": 2, "whole": True, "model": "Ascend910C"}),
    ],
)
def test_what_a_container_asks(limits: dict[str, Any], meta: dict[str, Any], want: dict[str, Any]) -> None:
    assert only(limits, **meta) == Ask("c", **{"kind": "gpu", **want})


@pytest.mark.parametrize(
    ("limits", "meta", "words"),
    [
        (
            {"aliyun.com/gpu-mem": 7},
            {"labels": {"aliyun.com/gpu-count": "2"}},
            "7 does not divide by aliyun.com/gpu-count 2; ask for a multiple of 2",
        ),
        ({"aliyun.com/gpu-mem": 7}, {"labels": {"aliyun.com/gpu-count": "two"}}, '"two" is no number of cards'),
        ({"aliyun.com/gpu-core.percentage": 10}, {}, "10 stands without aliyun.com/gpu-mem"),
        (
            {"aliyun.com/gpu-mem": 1, "aliyun.com/gpu-core.percentage": 12},
            {},
            "12 is no share of the cards' cores; write a multiple of 5 from 5 to 100",
        ),
        ({"aliyun.com/gpu-mem": 1, "aliyun.com/gpu-core.percentage": 105}, {}, "105 is no share of the cards' cores"),
        (
            {"aliyun.com/gpu-mem": 1, "aliyun.com/gpu-core.tflops": 2},
            {},
            "is not scheduled here; ask for aliyun.com/gpu-core.percentage",
        ),
        (
            {"aliyun.com/gpu-mem": 1},
            {"labels": {"ack.gpushare.placement": "whole"}},
            '"whole" is no placement; write require-whole-device',
        ),
        ({"aliyun.com/gpu-mem": 1, "nvidia.com/gpu": 1}, {}, "are asked in several ways, aliyun.com/gpu-mem and cards by count"),
        ({"aliyun.com/gpu-mem": 1, "koordinator.sh/gpu": 50}, {}, "are asked in several ways"),
        (
            {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 1, "nvidia.com/gpumem-percentage": 5},
            {},
            "stands beside nvidia.com/gpumem; ask for one",
        ),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 150}, {}, "150 is more than a card has; write 1 to 100"),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpucores": 101}, {}, "101 is more than a card has"),
        ({"koordinator.sh/gpu": 150}, {}, "is more than 1 cards have"),
        (
            {"koordinator.sh/gpu-core": 50},
            {},
            "stands without memory; add koordinator.sh/gpu-memory-ratio or koordinator.sh/gpu-memory",
        ),
        ({"koordinator.sh/gpu": 50, "koordinator.sh/gpu-core": 50}, {}, "stands beside other names"),
        (
            {"koordinator.sh/gpu-memory": "1Gi", "koordinator.sh/gpu-memory-ratio": 50},
            {},
            "stands beside koordinator.sh/gpu-memory",
        ),
        ({"huawei.com/Ascend910B3": 2, "huawei.com/Ascend910B3-memory": 16384}, {}, "2 shares several cards; ask for whole ones"),
        ({"huawei.com/Ascend910C": 3}, {}, "3 cuts a module apart; ask for a multiple of 2"),
        ({"aliyun.com/gpu-mem": "-4"}, {}, "is negative; ask for 0 or more"),
        ({"aliyun.com/gpu-mem": "4Gb"}, {}, "is no Kubernetes quantity; write 4Gi"),
        ({}, {"claims": {"gpu": "missing"}}, "claim gpu"),
        ({"aliyun.com/gpu-mem": 10**15}, {}, "is more than a node has"),
        ({"nvidia.com/gpu": 10**12}, {}, "is more than a node has"),
        ({"nvidia.com/mig-1g.5gb": 10**12}, {}, "is more than a node has; ask for at most 256"),
        ({"koordinator.sh/gpu": 10**17}, {}, "is more than a node has"),
    ],
)
def test_what_contradicts_itself_is_refused_with_a_sentence(limits: dict[str, Any], meta: dict[str, Any], words: str) -> None:
    ask, problems = read({"c": limits}, **meta)
    assert ask is None
    assert any(words in problem and "error: Pod team/p" in problem for problem in problems), problems


def test_containers_must_agree_in_ack_and_koordinator() -> None:
    ask, problems = read({"a": {"aliyun.com/gpu-mem": 1, "aliyun.com/gpu-core.percentage": 5}, "b": {"aliyun.com/gpu-mem": 1}})
    assert ask is None
    assert "is asked by some containers only" in problems[0]
    ask, problems = read({"a": {"koordinator.sh/gpu": 200}, "b": {"koordinator.sh/gpu": 50}})
    assert ask is None
    assert "is not the same for all containers" in problems[0]


def test_roles_and_order_of_containers() -> None:
    ask, _ = read({"a": {"nvidia.com/gpumem": 1}}, init={"i": {"nvidia.com/gpumem": 2}}, sidecars={"s": {"nvidia.com/gpumem": 3}})
    assert ask is not None
    assert [(one.container, one.role) for one in ask.asks] == [("i", "init"), ("s", "sidecar"), ("a", "app")]
    assert [(seat.container, seat.role) for seat in ask.seats] == [("i", "init"), ("s", "sidecar"), ("a", "app")]


def test_annotations_of_hami() -> None:
    annotations = {
        "nvidia.com/use-gputype": "A100, H100",
        "nvidia.com/nouse-gputype": "PCIe",
        "nvidia.com/use-gpuuuid": "GPU-1",
        "nvidia.com/numa-bind": "true",
        "hami.io/gpu-scheduler-policy": "spread",
        "hami.io/node-scheduler-policy": "topology-aware",
    }
    ask, problems = read({"c": {"nvidia.com/gpumem": 1}}, annotations=annotations)
    assert ask is not None
    assert (ask.types, ask.not_types, ask.ids, ask.one_numa) == (("A100", "H100"), ("PCIe",), ("GPU-1",), True)
    assert (ask.cards_by, ask.nodes_by) == ("spread", "")
    assert '"topology-aware" is no order that is known here' in problems[0]
    assert "warning" in problems[0]


def test_the_queue_decides_where_the_pod_does_not() -> None:
    findings = Findings()
    plain = pod({"c": {"nvidia.com/gpumem": 1}})
    chosen = pod({"c": {"nvidia.com/gpumem": 1}}, annotations={"hami.io/gpu-scheduler-policy": "binpack"})
    asks = [ask.filled(Fill("binpack", "spread")) for one in (plain, chosen) if (ask := read_ask(one, findings)) is not None]
    assert [(ask.cards_by, ask.nodes_by) for ask in asks] == [("spread", "binpack"), ("binpack", "binpack")]


CLAIM = {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}]}}}


def requests(**exactly: Any) -> dict[str, Any]:
    return {"spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}}


def selector(text: str) -> list[dict[str, Any]]:
    return [{"cel": {"expression": text}}]


@pytest.mark.parametrize(
    ("claim", "want"),
    [
        (CLAIM, {"whole": True, "claim": ("o", "gpu")}),
        (requests(deviceClassName="gpu.nvidia.com", count=2), {"whole": True, "cards": 2}),
        (
            requests(
                deviceClassName="mig.nvidia.com", selectors=selector("device.attributes['gpu.nvidia.com'].profile == '1g.5gb'")
            ),
            {"profile": "1g.5gb"},
        ),
        (requests(deviceClassName="gpu.nvidia.com", capacity={"requests": {"memory": "10Gi"}}), {"memory": 10 * GIB}),
    ],
)
def test_what_a_claim_asks(claim: dict[str, Any], want: dict[str, Any]) -> None:
    assert only({}, claims={"gpu": "o"}, objects={"o": claim}) == Ask("c", **{"kind": "gpu", "claim": ("o", "r"), **want})


@pytest.mark.parametrize(
    ("exactly", "words"),
    [
        ({"deviceClassName": "mig.nvidia.com"}, "names no profile"),
        ({"deviceClassName": "gpu.nvidia.com", "allocationMode": "All"}, "write allocationMode ExactCount"),
        ({"deviceClassName": "gpu.nvidia.com", "count": 10**9}, "is no number of cards that is decided here"),
        (
            {"deviceClassName": "gpu.nvidia.com", "selectors": selector("device.capacity['x'].y.compareTo(quantity('1')) > 0")},
            "is not evaluated here; compare profile, productName or uuid with ==",
        ),
    ],
)
def test_claims_that_are_not_decided_here(exactly: dict[str, Any], words: str) -> None:
    ask, problems = read({"c": {}}, claims={"gpu": "o"}, objects={"o": requests(**exactly)})
    assert ask is None
    assert words in problems[0]
    assert "ResourceClaim team/o" in problems[0]


def test_other_drivers_devices_are_not_ours() -> None:
    assert read({"c": {}}, claims={"nic": "o"}, objects={"o": requests(deviceClassName="rdma.example.com")}) == (None, [])


# nodes


SHARED = {"aliyun.com/gpu-mem": "30", "aliyun.com/gpu-count": "2"}


def shared(**labels: str) -> dict[str, Any]:
    keys = {"mode": "ack.node.gpu.schedule", "order": "ack.node.gpu.placement", "most": "ack.node.gpu.max-pod"}
    return {
        "metadata": {"name": "n1", "labels": {keys[key]: value for key, value in labels.items()}},
        "status": {"capacity": SHARED, "allocatable": SHARED},
    }


@pytest.mark.parametrize(
    ("mode", "whole", "shares", "cores", "card_cores"),
    [
        ("cgpu", False, True, "never", 0),
        ("share", False, True, "never", 0),
        ("mps", False, True, "never", 0),
        ("core_mem", False, True, "must", 100),
        ("default", True, False, "may", 0),
        ("topology", True, False, "may", 0),
    ],
)
def test_modes_of_ack_nodes(mode: str, whole: bool, shares: bool, cores: str, card_cores: int) -> None:
    findings = Findings()
    found = read_node(shared(mode=mode), findings)
    assert findings.problems == []
    assert (found.rules.whole, found.rules.shares, found.rules.cores) == (whole, shares, cores)
    assert [(card.index, card.memory, card.cores) for card in found.devices] == [
        (0, 15 * GIB, card_cores),
        (1, 15 * GIB, card_cores),
    ]


def test_order_and_bound_of_ack_nodes() -> None:
    findings = Findings()
    found = read_node(shared(mode="cgpu", order="spread", most="3"), findings, unhealthy=[1])
    assert (found.rules.cards_by, found.rules.max_pods, found.api) == ("spread", 3, "ack")
    assert [card.healthy for card in found.devices] == [True, False]
    assert read_node(shared(mode="core_mem"), findings, settings=Settings(mix_cores=True)).rules.cores == "may"
    assert findings.problems == []


@pytest.mark.parametrize(
    ("labels", "words", "open_"),
    [
        ({"mode": "cgup"}, 'label ack.node.gpu.schedule "cgup" is no mode; write one of default', False),
        ({"mode": "cgpu", "order": "pack"}, '"pack" is no placement and counts as none', True),
        ({"mode": "cgpu", "most": "many"}, '"many" is no number and counts as none', True),
        ({"mode": "cgpu", "most": "0"}, "lets no pod share a card", False),
    ],
)
def test_labels_that_say_nothing(labels: dict[str, str], words: str, open_: bool) -> None:
    findings = Findings()
    found = read_node(shared(**labels), findings)
    assert [words in str(problem) for problem in findings.problems] == [True]
    assert found.rules.shares == open_


def test_totals_that_do_not_divide_are_rounded_down_and_said() -> None:
    findings = Findings()
    value = {"metadata": {"name": "n1"}, "status": {"capacity": {"aliyun.com/gpu-mem": "31", "aliyun.com/gpu-count": "2"}}}
    assert [card.memory for card in read_node(value, findings).devices] == [15 * GIB, 15 * GIB]
    assert "31 does not divide by its 2 cards" in str(findings.problems[0])


REGISTERED = (
    '[{"id":"GPU-663aa370","count":10,"devmem":24564,"devcore":100,"type":"NVIDIA GeForce RTX 4090","health":true},'
    '{"id":"GPU-c15ecdf3","index":1,"count":7,"devmem":81920,"devcore":100,"type":"NVIDIA-NVIDIA A100-SXM4-80GB",'
    '"mode":"mig","health":true}]'
)


def test_registrations_of_hami() -> None:
    findings = Findings()
    string = "GPU-ebe7c3f7-303d-558d-435e-99a160631fe4,10,7680,100,NVIDIA-Tesla P4,0,true:"  # HAMi pkg/device/devices_test.go
    (card,) = read_node(node(annotations={"hami.io/node-nvidia-register": string}), findings).devices
    assert (card.id, card.index, card.tenants, card.memory, card.model, card.healthy) == (
        "GPU-ebe7c3f7-303d-558d-435e-99a160631fe4",
        0,
        10,
        7680 * MIB,
        "NVIDIA-Tesla P4",
        True,
    )
    newer = string[:-1] + ",1,hami-core:"
    assert read_node(node(annotations={"hami.io/node-nvidia-register": newer}), findings).devices[0].index == 1
    plain, parts = read_node(node(annotations={"hami.io/node-nvidia-register": REGISTERED}), findings).devices
    assert (plain.layout, plain.tenants, parts.layout, parts.tenants) == ("", 10, "A100-80GB", 0)
    npu = '[{"id":"uuid-1","count":7,"devmem":65536,"devcore":20,"type":"Ascend910B3","health":true}]'
    (card,) = read_node(node(annotations={"hami.io/node-register-Ascend910B3": npu}), findings).devices
    assert (card.kind, card.cores, card.cpus, card.model) == ("npu", 20, 7, "Ascend910B3")
    cordoned = {"hami.io/node-nvidia-register": REGISTERED, "hami.io/device-cordon": "GPU-c15ecdf3"}
    assert [card.healthy for card in read_node(node(annotations=cordoned), findings).devices] == [True, False]
    assert findings.problems == []


@pytest.mark.parametrize(
    "bad", ["garbage", "[{}]", "GPU-1,x,7680,100,T,0,true:", "GPU-1,10,7680,100,T:", '[{"id":"a","index":-1}]']
)
def test_registrations_that_are_unreadable(bad: str) -> None:
    findings = Findings()
    assert read_node(node(annotations={"hami.io/node-nvidia-register": bad}), findings).devices == ()
    assert "is no registration" in str(findings.problems[0])


DEVICE = {
    "metadata": {"name": "n1", "labels": {"node.koordinator.sh/gpu-model": "A10", "node.koordinator.sh/gpu-vendor": "nvidia"}},
    "spec": {
        "devices": [
            {
                "health": True,
                "id": "GPU-fd971b33-4891-fd2e-ed42-ce6adf324615",
                "minor": 0,
                "resources": {
                    "koordinator.sh/gpu-core": "100",
                    "koordinator.sh/gpu-memory": "23040Mi",
                    "koordinator.sh/gpu-memory-ratio": "100",
                },
                "topology": {"nodeID": 1},
                "type": "gpu",
            },
            {"health": False, "id": "GPU-2", "minor": 1, "resources": {"koordinator.sh/gpu-memory": "23040Mi"}, "type": "gpu"},
            {"health": True, "id": "0000:09:00.0", "minor": 0, "type": "rdma"},
        ]
    },
}


def test_koordinators_device_object() -> None:
    findings = Findings()
    found = read_node(node(), findings, device=DEVICE)
    assert findings.problems == []
    assert [
        (card.id[:7], card.index, card.memory, card.cores, card.healthy, card.numa, card.model) for card in found.devices
    ] == [
        ("GPU-fd9", 0, 23040 * MIB, 100, True, 1, "A10"),
        ("GPU-2", 1, 23040 * MIB, 0, False, -1, "A10"),
    ]


def test_two_descriptions_of_one_node_that_differ() -> None:
    findings = Findings()
    value = node(annotations={"hami.io/node-nvidia-register": REGISTERED}, **{"nvidia.com/gpu": "20"})
    device = {"metadata": {"name": "n1"}, "spec": {"devices": [{"type": "gpu", "minor": 0, "health": True}]}}
    found = read_node(value, findings, device=device)
    assert len(found.devices) == 1
    assert "has 1 cards after koordinator and 2 after hami" in str(findings.problems[0])


def test_a_node_that_only_counts() -> None:
    findings = Findings()
    value = node({"nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.memory": "15360"}, **{"nvidia.com/gpu": "2"})
    found = read_node(value, findings)
    assert [(card.id, card.memory, card.model) for card in found.devices] == [
        ("gpu-0", 15360 * MIB, "Tesla-T4"),
        ("gpu-1", 15360 * MIB, "Tesla-T4"),
    ]
    assert found.api == "plugin"


@pytest.mark.parametrize(
    "value",
    [
        {
            "metadata": {"name": "n1"},
            "status": {"capacity": {"aliyun.com/gpu-mem": str(10**9), "aliyun.com/gpu-count": str(10**9)}},
        },
        {"metadata": {"name": "n1"}, "status": {"capacity": {"aliyun.com/gpu-mem": str(10**15), "aliyun.com/gpu-count": "1"}}},
    ],
)
def test_nodes_with_more_than_there_is(value: dict[str, Any]) -> None:
    findings = Findings()
    assert read_node(value, findings).devices == ()
    assert "is more than a node has; repair the device plugin" in str(findings.problems[0])


JUNK: Any = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.text(max_size=12)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = sorted(name for name in vars(ack).values() if isinstance(name, str) and ("/" in name or name.startswith("ALIYUN")))
KEYS += ["hami.io/vgpu-devices-allocated", "hami.io/vgpu-mig-allocations", "scheduling.koordinator.sh/device-allocated"]
KEYS += ["hami.io/node-nvidia-register", "hami.io/node-register-Ascend910A", "forebay.io/devices"]
WORDS = st.one_of(
    st.text(max_size=20),
    JUNK.map(json.dumps),
    st.from_regex(r"(GPU-[0-9],[A-Z]{0,3},-?[0-9]{1,25},[0-9]{0,3}[:;]){0,3}", fullmatch=True),
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_written_is_read_or_refused(data: st.DataObject) -> None:
    """No text in an annotation, label or resource makes anything but a finding or a ValueError with a sentence."""
    findings = Findings()
    written = data.draw(st.dictionaries(st.sampled_from(KEYS), WORDS, max_size=4))
    amounts = data.draw(st.dictionaries(st.sampled_from(sorted(KEYS)), st.one_of(st.integers(-3, 2**70), WORDS), max_size=3))
    seen = pod({"a": amounts, "b": {}}, labels=written, annotations=written, node="n1", findings=findings)
    ask = read_ask(seen, findings)
    value = {
        "metadata": {"name": "n1", "labels": written, "annotations": written},
        "status": {"capacity": amounts, "allocatable": amounts},
    }
    found = read_node(value, findings, device=data.draw(st.dictionaries(st.sampled_from(["spec", "metadata"]), JUNK)))
    cards = Cards([found.devices], [found.rules], len(found.devices))
    if ask is not None:
        cards.feasible(ask, np.arange(1))
    try:
        record = read_record(seen, found)
    except ValueError:
        return
    if record is not None:
        Ledger().confirm(record)
