"""What is written on PodGroups: in whose words, when, how often, and what happens when somebody else writes too."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from livekit import bound, core, ending, node, pod

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.groups import Groups
from forebay.scheduler.groups.native import KIND as NATIVE
from forebay.scheduler.groups.podgroup import PLUGINS, SIGS
from forebay.scheduler.groups.status import Standing, Tally, Why, conditions, cut, shown
from forebay.scheduler.groups.volcano import KIND as VOLCANO
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.instructions import Outcome, Status

VERSIONS = {
    NATIVE: "scheduling.k8s.io/v1alpha2",
    PLUGINS: "scheduling.x-k8s.io/v1alpha1",
    SIGS: "scheduling.sigs.k8s.io/v1alpha1",
    VOLCANO: "scheduling.volcano.sh/v1beta1",
}
NO_ROOM = Why("Unschedulable", "no room")


def group(kind: str, least: int = 2, version: int = 1, **status: Any) -> dict[str, Any]:
    spec = {"schedulingPolicy": {"gang": {"minCount": least}}} if kind == NATIVE else {"minMember": least}
    meta = {"name": "g", "namespace": "n", "uid": "u", "resourceVersion": str(version), "generation": 3}
    return {"apiVersion": VERSIONS[kind], "kind": "PodGroup", "metadata": meta, "spec": spec, "status": status}


def said(kind: str, tally: Tally, why: Why | None = None, least: int = 2, **status: Any) -> Any:
    groups, value = Groups(), group(kind, least, **status)
    groups.set(kind, value)
    found = groups.described(groups.key(kind, "n/g"))
    assert found is not None
    return shown(Standing(kind, VERSIONS[kind], 3, status), found[1], tally, why)


@pytest.mark.parametrize(
    ("tally", "why", "plugins", "volcano"),
    [
        (Tally({}, waiting=1), None, "Pending", "Inqueue"),
        (Tally({}, waiting=2), NO_ROOM, "Pending", "Inqueue"),
        (Tally({}, waiting=1, placed=1), NO_ROOM, "Unknown", "Unknown"),
        (Tally({}, placed=2), None, "Scheduling", "Inqueue"),
        (Tally({}, placed=1, running=1), None, "Scheduling", "Inqueue"),
        (Tally({}, running=2), None, "Running", "Running"),
        (Tally({}, running=1, succeeded=1), None, "Running", "Running"),
        (Tally({}, waiting=1, running=2), NO_ROOM, "Running", "Running"),
        (Tally({}, succeeded=2), None, "Finished", "Completed"),
        (Tally({}, running=1, succeeded=2), None, "Finished", "Running"),
        (Tally({}, running=1, failed=1), None, "Failed", "Inqueue"),
        (Tally({}, running=2, failed=1), None, "Running", "Running"),
        (Tally({}), None, "Pending", "Inqueue"),
    ],
)
def test_the_phase_follows_the_pods(tally: Tally, why: Why | None, plugins: str, volcano: str) -> None:
    of = said(PLUGINS, tally, why).fields
    assert of["phase"] == plugins
    assert (of["running"], of["succeeded"], of["failed"]) == (tally.running, tally.succeeded, tally.failed)
    assert "scheduled" not in of  # the newest type has no such field
    assert said(SIGS, tally, why).fields["scheduled"] == tally.placed + tally.running + tally.succeeded
    assert said(VOLCANO, tally, why).fields["phase"] == volcano


def test_what_has_ended_stays_when_its_pods_are_cleaned_up() -> None:
    assert said(PLUGINS, Tally({}), phase="Finished", succeeded=2).fields == {}
    assert said(VOLCANO, Tally({}), phase="Completed", succeeded=2).fields == {}


def test_kubernetes_own_condition_turns_true_once() -> None:
    waits = said(NATIVE, Tally({}, waiting=2), NO_ROOM).conditions["PodGroupScheduled"]
    assert waits == ("False", "Unschedulable", "no room", 3)
    assert said(NATIVE, Tally({}, waiting=2)).conditions == {}  # nobody has tried it yet
    there = said(NATIVE, Tally({}, placed=1, running=1)).conditions["PodGroupScheduled"]
    assert there[:2] == ("True", "Scheduled")
    stands = [{"type": "PodGroupScheduled", "status": "True"}]
    assert said(NATIVE, Tally({}, waiting=2), NO_ROOM, conditions=stands).conditions == {}
    gone = said(NATIVE, Tally({}), conditions=[{"type": "PodGroupScheduled", "status": "False"}])
    assert gone.conditions["PodGroupScheduled"].message == "none of its pods exist; create 2"


def test_in_1_37_the_condition_has_another_name() -> None:
    groups, value = Groups(), group(NATIVE) | {"apiVersion": "scheduling.k8s.io/v1beta1"}
    groups.set(NATIVE, value)
    found = groups.described("kubernetes:n/g")
    assert found is not None
    told = shown(Standing(NATIVE, "scheduling.k8s.io/v1beta1", 3, {}), found[1], Tally({}, waiting=2), NO_ROOM)
    assert list(told.conditions) == ["PodGroupInitiallyScheduled"]


def test_volcanos_conditions_say_which_is_short() -> None:
    assert said(VOLCANO, Tally({}, waiting=1), NO_ROOM).conditions["Unschedulable"] == ("True", "NotEnoughTasks", "no room", 0)
    assert said(VOLCANO, Tally({}, waiting=2), NO_ROOM).conditions["Unschedulable"].reason == "NotEnoughResources"
    stuck = [{"type": "Unschedulable", "status": "True"}]
    told = said(VOLCANO, Tally({}, placed=2), conditions=stuck).conditions
    assert {name: one.status for name, one in told.items()} == {"Scheduled": "True", "Unschedulable": "False"}


def test_a_sentence_is_cut_to_what_a_condition_takes() -> None:
    assert len(cut("é" * 2000).encode()) <= 1024
    assert cut("short") == "short"


# --- when ---


def member(name: str, **spec: Any) -> Pod:
    return pod(name, schedulingGroup={"podGroupName": "g"}, **spec)


def statuses(c: Core, now: float) -> list[Status]:
    return [one for one in c.decide(now) if isinstance(one, Status)]


def stands(c: Core, old: dict[str, Any], said: Status, version: int) -> dict[str, Any]:
    """The server took it, and the watch says so."""
    new = {**old, "metadata": {**old["metadata"], "resourceVersion": str(version)}, "status": dict(said.status)}
    c.apply(f"Group:{NATIVE}", old, new)
    return new


def condition(one: Status) -> dict[str, Any]:
    return dict(conditions(one.status)["PodGroupScheduled"])


def world(cpu: int = 1) -> tuple[Core, dict[str, Any]]:
    c, value = core(), group(NATIVE)
    c.apply("Node", None, node("n1", cpu))
    c.apply(f"Group:{NATIVE}", None, value)
    return c, value


def starts(c: Core, *pods: Pod) -> None:
    for one in pods:
        c.apply("Pod", one, bound(one, "n1"))


def test_a_gang_that_starts_at_once_is_written_once() -> None:
    c, value = world(cpu=2)
    first, second = member("a"), member("b")
    c.apply("Pod", None, first)
    assert statuses(c, 0.0) == []
    c.apply("Pod", None, second)
    assert statuses(c, 0.5) == []
    starts(c, first, second)
    (one,) = statuses(c, 1.1)
    assert (one.name, one.uid, one.version) == ("g", "u", "1")
    assert condition(one)["status"] == "True"
    assert condition(one)["observedGeneration"] == 3
    stands(c, value, one, 2)
    assert not [said for now in (2.5, 12.0, 400.0, 800.0) for said in statuses(c, now)]


def test_sentences_alone_are_written_at_most_every_ten_seconds() -> None:
    c, value = world()
    c.apply("Pod", None, member("a"))
    statuses(c, 0.0)
    (one,) = statuses(c, 1.5)
    assert "1 of 2 pods exist" in condition(one)["message"]
    since = condition(one)["lastTransitionTime"]
    value = stands(c, value, one, 2)
    c.apply("Pod", None, member("b"))
    assert not [said for now in (2.0, 3.5, 6.0, 11.0) for said in statuses(c, now)]
    (one,) = statuses(c, 11.6)
    assert "the gang needs 2 pods at once" in condition(one)["message"] or "room for 1" in condition(one)["message"]
    assert condition(one)["lastTransitionTime"] == since


def test_a_status_alone_does_not_have_the_gang_tried_again() -> None:
    c, value = world()
    for name in ("a", "b"):
        c.apply("Pod", None, member(name))
    statuses(c, 0.0)
    (one,) = statuses(c, 1.5)
    attempts = c.counts.attempts["unschedulable"]
    value = stands(c, value, one, 2)
    statuses(c, 1.6)
    assert c.counts.attempts["unschedulable"] == attempts
    c.apply(f"Group:{NATIVE}", value, group(NATIVE, least=1, version=3))  # its description has changed
    c.decide(1.7)
    assert c.counts.attempts["scheduled"] == 1


def test_what_a_conflict_swallowed_is_written_on_the_newer_object() -> None:
    c, value = world(cpu=2)
    pods = member("a"), member("b")
    for one in pods:
        c.apply("Pod", None, one)
    starts(c, *pods)
    statuses(c, 0.0)
    (first,) = statuses(c, 1.1)
    assert not statuses(c, 5.0)  # it is under way
    other = [{"type": "Other", "status": "True"}]
    c.apply(f"Group:{NATIVE}", value, group(NATIVE, version=2, conditions=other))
    statuses(c, 6.0)
    (again,) = statuses(c, 7.1)
    assert again.version == "2"
    assert condition(again)["status"] == condition(first)["status"] == "True"


def test_what_was_lost_is_asked_for_again_later() -> None:
    c, _ = world(cpu=2)
    pods = member("a"), member("b")
    for one in pods:
        c.apply("Pod", None, one)
    starts(c, *pods)
    statuses(c, 0.0)
    assert len(statuses(c, 1.1)) == 1
    later = [said for step in range(1, 700) for said in statuses(c, 1.1 + step)]
    assert [one.version for one in later] == ["1", "1"]  # each 300 s, not each pass


def test_two_writers_do_not_write_in_turn() -> None:
    c, value = world()
    c.apply("Pod", None, member("a"))
    statuses(c, 0.0)
    (one,) = statuses(c, 1.5)
    value = stands(c, value, one, 2)
    theirs = [{**condition(one), "message": "theirs"}]
    c.apply(f"Group:{NATIVE}", value, group(NATIVE, version=3, conditions=theirs))
    assert not [said for now in range(3, 60) for said in statuses(c, now)]
    c.apply("Pod", None, member("b"))  # there is something new to say
    statuses(c, 61.0)
    assert len(statuses(c, 62.1)) == 1


def test_a_group_of_another_scheduler_is_left_alone() -> None:
    c, _ = world()
    c.apply("Pod", None, member("a"))
    c.apply("Pod", None, member("b", schedulerName="default-scheduler"))
    assert not [said for now in range(20) for said in statuses(c, now)]


def test_a_group_that_is_gone_or_was_made_anew_is_written_as_it_is_now() -> None:
    c, value = world()
    c.apply("Pod", None, member("a"))
    statuses(c, 0.0)
    assert len(statuses(c, 1.5)) == 1
    c.apply(f"Group:{NATIVE}", value, None)
    assert not [said for now in (3.0, 20.0) for said in statuses(c, now)]
    new = group(NATIVE, version=9)
    new["metadata"]["uid"] = "another"
    c.apply(f"Group:{NATIVE}", None, new)
    statuses(c, 21.0)
    (one,) = statuses(c, 22.1)
    assert (one.uid, one.version) == ("another", "9")


def test_pods_that_leave_or_never_had_a_node_do_not_stay_counted() -> None:
    c, value = world()
    one = member("a")
    c.apply("Pod", None, one)
    statuses(c, 0.0)
    (told,) = statuses(c, 1.5)
    stands(c, value, told, 2)
    c.apply("Pod", one, ending(one))
    c.apply("Pod", ending(one), None)
    statuses(c, 20.0)
    (last,) = statuses(c, 21.1)
    assert condition(last)["message"] == "none of its pods exist; create 2"


def test_a_binding_that_fails_is_the_schedulers_error() -> None:
    c, _ = world(cpu=2)
    for name in ("a", "b"):
        c.apply("Pod", None, member(name))
    for one in c.decide(0.0):
        if not isinstance(one, Status):
            c.outcome(Outcome(one.number, one.pod.uid, "failed", "the server is away"), 0.1)  # type: ignore[union-attr]
    (said,) = [one for now in (0.2, 1.4) for one in statuses(c, now)]
    assert condition(said)["reason"] == "SchedulerError"
    assert "the server is away" in condition(said)["message"]


def test_the_body_is_what_json_takes() -> None:
    c, _ = world()
    c.apply("Pod", None, member("a"))
    statuses(c, 0.0)
    (one,) = statuses(c, 1.5)
    assert msgspec.json.decode(msgspec.json.encode(one))["status"]["conditions"][0]["type"] == "PodGroupScheduled"
