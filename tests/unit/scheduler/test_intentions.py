"""What is written on a gated pod, and which gangs their own scheduler left in part."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from forebay.api.kubernetes.core import Pod, PodStatus
from forebay.scheduler.live.instructions import Named
from forebay.scheduler.live.intentions import GATE, INTENTION, Intention, Late, Opened, opening, read, render

A, B = Named("team", "a", "uid-a"), Named("team", "b", "uid-b")
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def raw(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"uid": "uid-a", "resourceVersion": "7"}, "spec": {"schedulingGates": [{"name": GATE}], **spec}}


def terms(patch: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = patch["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    return found


PIN = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
ZONE = {"key": "zone", "operator": "In", "values": ["a"]}


def test_a_pod_without_demands_gets_one() -> None:
    patch = opening(raw(), "n1", {"x": "y"})
    assert terms(patch) == [{"matchFields": [PIN]}]
    assert patch["metadata"] == {"uid": "uid-a", "resourceVersion": "7", "annotations": {"x": "y"}}
    assert patch["spec"]["schedulingGates"] is None


def test_each_term_is_pinned_and_keeps_what_it_had() -> None:
    there = [{"matchExpressions": [ZONE]}, {"matchFields": [{**PIN, "operator": "NotIn", "values": ["n2"]}]}]
    pod = raw(affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": there}}})
    assert terms(opening(pod, "n1", {})) == [
        {"matchExpressions": [ZONE], "matchFields": [PIN]},
        {"matchFields": [there[1]["matchFields"][0], PIN]},
    ]


def test_gates_of_others_stay() -> None:
    patch = opening(raw(schedulingGates=[{"name": "other"}, {"name": GATE}]), "n1", {})
    assert patch["spec"]["schedulingGates"] == [{"name": "other"}]


def pod(named: Named, node: str = "", said: str = "", **notes: str) -> Pod:
    conditions = [{"type": "PodScheduled", "status": "False", "message": said}] if said else []
    meta = {"namespace": named.namespace, "name": named.name, "uid": named.uid, "annotations": notes}
    return msgspec.convert({"metadata": meta, "spec": {"nodeName": node}, "status": {"conditions": conditions}}, Pod)


def test_an_intention_is_read_back() -> None:
    meant = Intention("n1", "team/train", 12.5)
    assert read(pod(A, **render(meant))) == meant
    assert read(pod(A)) is None
    for broken in ("{", "[]", "{}", '"n1"', '{"node": "n1", "gang": "", "since": "soon"}'):
        assert read(pod(A, **{INTENTION: broken})) is None


def opened(*pods: Named, gang: str = "team/train", since: float = 0.0) -> Opened:
    made = Opened()
    for number, one in enumerate(pods, 1):
        made.add(one, Intention(f"n{number}", gang, since))
    return made


def test_a_gang_that_is_bound_in_time_is_forgotten() -> None:
    gates = opened(A, B)
    assert gates.see(pod(A, "n1")) == ""
    assert len(gates) == 1
    assert gates.see(pod(B, "n2")) == ""
    assert not len(gates)
    assert gates.late(1000.0, 60.0) == []


def test_a_gang_in_part_is_told_once_with_what_its_scheduler_says() -> None:
    gates = opened(A, B)
    gates.see(pod(A, "n1"))
    gates.see(pod(B, said="0/2 nodes are available: 1 Insufficient cpu."))
    assert gates.late(59.9, 60.0) == []
    assert gates.late(60.0, 60.0) == [
        Late(
            "team/train",
            (B,),
            (A,),
            "1 of 2 pods of gang team/train are bound 60 s after the gate was opened; pod team/b was meant for n2: 0/2 nodes are "
            "available: 1 Insufficient cpu.",
        )
    ]
    assert gates.late(120.0, 60.0) == []


def test_a_single_pod_that_nobody_binds() -> None:
    (late,) = opened(A, gang="").late(60.0, 60.0)
    assert (late.gang, late.pods) == ("uid-a", (A,))
    assert late.sentence == (
        "it is not bound 60 s after the gate was opened; pod team/a was meant for n1: its scheduler says nothing of it"
    )


def test_the_words_about_the_gate_are_not_the_schedulers() -> None:
    gates = opened(A)
    blocked = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "blocked by scheduling gates"}
    gates.see(msgspec.structs.replace(pod(A), status=msgspec.convert({"conditions": [blocked]}, PodStatus)))
    assert "its scheduler says nothing of it" in gates.late(60.0, 60.0)[0].sentence


def test_a_pod_that_went_elsewhere_is_a_sentence() -> None:
    said = opened(A, B).see(pod(A, "n9"))
    assert said == "pod team/a was meant for n1 and its scheduler bound it to n9; what runs counts"


@pytest.mark.parametrize("order", [[A, B], [B, A]])
def test_deleted_pods_are_forgotten(order: list[Named]) -> None:
    gates = opened(A, B)
    gates.see(pod(A, "n1"))
    for one in order:
        gates.gone(one.uid)
    assert not len(gates)
    assert gates.late(1000.0, 1.0) == []
    gates.gone("never seen")


def test_a_member_that_is_made_anew_opens_the_gang_again() -> None:
    gates = opened(A, B)
    gates.see(pod(A, "n1"))
    assert len(gates.late(60.0, 60.0)) == 1
    gates.gone(B.uid)
    again = Named("team", "b", "uid-b2")
    gates.add(again, Intention("n2", "team/train", 70.0))
    assert gates.late(100.0, 60.0) == []
    (late,) = gates.late(130.0, 60.0)
    assert late.waiting == (again,)
