"""Gangs from the manifests that each API's documentation shows, and every contradiction as a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import yaml
from groupkit import ACK, KOORDINATOR, ONE, pod

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.arrays.state import Node, State
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.groups import SOURCES, Groups, Membership, Spec, too_large
from forebay.scheduler.pods.request import Request


def known(manifests: str) -> Groups:
    groups = Groups()
    for value in yaml.safe_load_all(manifests):
        groups.set(f"{value['kind']}.{value['apiVersion'].partition('/')[0]}", value)
    return groups


def gathered(groups: Groups, waiting: Sequence[Pod], bound: Sequence[Pod] = ()) -> Gang | str:
    """Of the gang that the first pod is of; all of them must be of it."""
    found = [groups.membership(one) for one in (*waiting, *bound)]
    assert len({one.gang for one in found if one is not None}) == 1
    assert all(found)
    members = [
        (one, Member(one.metadata.name, ONE, place.group))
        for one, place in zip(waiting, found, strict=False)
        if place is not None
    ]
    assert found[0] is not None
    return groups.gather(found[0].gang, members, bound)


def planned(groups: Groups, waiting: Sequence[Pod], bound: Sequence[Pod] = ()) -> Gang:
    gang = gathered(groups, waiting, bound)
    assert isinstance(gang, Gang), gang
    return gang


def refused(groups: Groups, waiting: Sequence[Pod], bound: Sequence[Pod] = ()) -> str:
    said = gathered(groups, waiting, bound)
    assert isinstance(said, str), said
    return said


def ack(name: str, minimum: str = "3", gang: str = "tf-smoke-gpu", **more: object) -> Pod:
    """As ACK's documentation of gang scheduling labels its TFJob."""
    policy = more.pop("policy", None)
    labels = {f"{ACK}/name": gang, f"{ACK}/min-available": minimum}
    return pod(name, labels | ({f"{ACK}/match-policy": str(policy)} if policy else {}), **more)  # type: ignore[arg-type]


# --- who belongs where


def test_a_pod_without_a_name_of_a_gang_is_single() -> None:
    assert Groups().membership(pod("a", {"app": "web"})) is None


def test_ack_labels() -> None:
    pods = [ack(f"worker-{i}") for i in range(4)]
    assert Groups().membership(pods[0]) == Membership("team/tf-smoke-gpu")
    gang = planned(Groups(), pods)
    assert (gang.name, gang.minimum, len(gang.members), dict(gang.group_minimum)) == ("team/tf-smoke-gpu", 3, 4, {})


PLUGINS = """
apiVersion: scheduling.x-k8s.io/v1alpha1
kind: PodGroup
metadata: {name: nginx, namespace: team, uid: u-1}
spec: {scheduleTimeoutSeconds: 10, minMember: 3}
"""


@pytest.mark.parametrize(
    "label", ["scheduling.x-k8s.io/pod-group", "pod-group.scheduling.sigs.k8s.io", "pod-group.scheduling.sigs.k8s.io/name"]
)
@pytest.mark.parametrize("group", ["scheduling.x-k8s.io", "scheduling.sigs.k8s.io"])
def test_a_podgroup_object_and_the_labels_that_name_it(label: str, group: str) -> None:
    groups = known(PLUGINS.replace("scheduling.x-k8s.io", group))
    pods = [pod(f"p{i}", {label: "nginx"}) for i in range(3)]
    if label.startswith("scheduling.x") and group.startswith("scheduling.sigs"):
        assert "does not exist" in refused(groups, pods)
        return
    assert planned(groups, pods).minimum == 3
    spec = groups.spec("team/nginx", pods)
    assert isinstance(spec, Spec)
    assert (spec.timeout, spec.minimum) == (10.0, 3)
    about = groups.regarding("team/nginx")
    assert about == (f"{group}/v1alpha1", "PodGroup", "team", "nginx", "u-1")
    groups.remove(f"PodGroup.{group}", "team", "nginx")
    assert groups.regarding("team/nginx") is None


def test_koordinator_annotations() -> None:
    notes = {
        f"{KOORDINATOR}/name": "gang-example",
        f"{KOORDINATOR}/min-available": "2",
        f"{KOORDINATOR}/total-number": "3",
        f"{KOORDINATOR}/mode": "NonStrict",
        f"{KOORDINATOR}/waiting-time": "1m30s",
    }
    pods = [pod(f"p{i}", {}, notes) for i in range(2)]
    assert planned(Groups(), pods).minimum == 2
    spec = Groups().spec("team/gang-example", pods)
    assert isinstance(spec, Spec)
    assert (spec.timeout, spec.parts[0].policy) == (90.0, "once-satisfied")


VOLCANO = """
apiVersion: scheduling.volcano.sh/v1beta1
kind: PodGroup
metadata: {name: tensorflow, namespace: team, uid: u-2}
spec: {minMember: 3, minTaskMember: {ps: 1, worker: 2}, queue: research, priorityClassName: high}
"""


def volcano(name: str, task: str, **more: object) -> Pod:
    return pod(name, {}, {"scheduling.k8s.io/group-name": "tensorflow", "volcano.sh/task-spec": task}, **more)  # type: ignore[arg-type]


def test_volcano_tasks_are_sub_groups() -> None:
    groups, pods = known(VOLCANO), [volcano("ps-0", "ps"), volcano("w-0", "worker"), volcano("w-1", "worker")]
    assert groups.membership(pods[1]) == Membership("volcano:team/tensorflow", "worker")
    gang = planned(groups, pods)
    assert (gang.minimum, dict(gang.group_minimum)) == (3, {"ps": 1, "worker": 2})
    spec = groups.spec("volcano:team/tensorflow", pods)
    assert isinstance(spec, Spec)
    assert (spec.queue, spec.priority_class) == ("research", "high")
    assert refused(groups, [*pods[:2], volcano("ps-1", "ps")]) == (
        'task "worker" of PodGroup team/tensorflow (scheduling.volcano.sh): 1 of 2 pods exist; create 1 more, '
        "or lower the minimum"
    )


def test_volcano_counts_what_has_succeeded() -> None:
    done = volcano("ps-0", "ps", node="n", phase="Succeeded")
    gang = planned(known(VOLCANO), [volcano("w-0", "worker"), volcano("w-1", "worker")], [done])
    assert (gang.minimum, dict(gang.group_minimum)) == (2, {"worker": 2})


NATIVE = """
apiVersion: scheduling.k8s.io/{version}
kind: PodGroup
metadata: {{name: training-worker-0, namespace: team, uid: u-3}}
spec:
  schedulingPolicy: {policy}
  priority: 7
"""


@pytest.mark.parametrize("version", ["v1alpha2", "v1beta1"])
def test_kubernetes_own_podgroup(version: str) -> None:
    groups = known(NATIVE.format(version=version, policy="{gang: {minCount: 4}}"))
    pods = [pod(f"worker-{i}", schedulingGroup={"podGroupName": "training-worker-0"}) for i in range(4)]
    assert groups.membership(pods[0]) == Membership("kubernetes:team/training-worker-0")
    assert planned(groups, pods).minimum == 4
    spec = groups.spec("kubernetes:team/training-worker-0", pods)
    assert isinstance(spec, Spec)
    assert spec.priority == 7
    about = groups.regarding("kubernetes:team/training-worker-0")
    assert about is not None
    assert about.api_version == f"scheduling.k8s.io/{version}"


def test_kubernetes_basic_policy_makes_no_gang() -> None:
    groups = known(NATIVE.format(version="v1alpha2", policy="{basic: {}}"))
    assert groups.membership(pod("a", schedulingGroup={"podGroupName": "training-worker-0"})) is None


def test_sources_name_what_set_takes() -> None:
    groups = Groups()
    for source in SOURCES:
        version = f"{source.group}/{source.versions[0]}"
        groups.set(source.name, {"apiVersion": version, "metadata": {"name": "x", "namespace": "y"}, "spec": {}})
    with pytest.raises(KeyError):
        groups.set("PodGroup.example.com", {})


# --- gangs that start only together


def bundled(name: str, gang: str, minimum: str, gangs: str = '["team/ps", "team/worker"]', **more: object) -> Pod:
    notes = {f"{KOORDINATOR}/name": gang, f"{KOORDINATOR}/min-available": minimum, f"{KOORDINATOR}/groups": gangs}
    return pod(name, {}, notes, **more)  # type: ignore[arg-type]


def test_a_gang_group_is_one_decision() -> None:
    pods = [bundled("ps-0", "ps", "1"), bundled("w-0", "worker", "2"), bundled("w-1", "worker", "2")]
    assert Groups().membership(pods[0]) == Membership("team/ps+team/worker", "team/ps")
    gang = planned(Groups(), pods)
    assert (gang.minimum, dict(gang.group_minimum)) == (3, {"team/ps": 1, "team/worker": 2})
    assert refused(Groups(), pods[1:]) == (
        "gang team/worker: its gang group starts at once, and no pod of team/ps names it; create those pods, "
        "or let their own list of gangs be the same"
    )
    assert refused(Groups(), pods[:2]) == "gang team/worker: 1 of 2 pods exist; create 1 more, or lower the minimum"


def test_a_gang_group_by_acks_names() -> None:
    both = '["team/ps","team/worker"]'
    manifest = PLUGINS.replace("nginx", "ps").replace("uid: u-1", f"annotations: {{{ACK}/groups: '{both}'}}")
    pods = [pod(f"p{i}", {f"{ACK}/name": "ps"}) for i in range(3)]
    other = pod("w", {f"{ACK}/name": "worker", f"{ACK}/min-available": "1"}, {f"{ACK}/groups": both})
    gang = planned(known(manifest), [*pods, other])
    assert dict(gang.group_minimum) == {"team/ps": 3, "team/worker": 1}


def test_a_gang_group_must_name_the_gang_itself() -> None:
    assert "does not name team/ps itself" in refused(Groups(), [bundled("a", "ps", "1", '["team/x", "team/y"]')])


# --- who counts


@pytest.mark.parametrize(
    ("policy", "bound", "minimum"),
    [
        ("waiting-and-running", [], 4),
        ("waiting-and-running", ["Running", "Running"], 2),
        ("waiting-and-running", ["Running", "Succeeded"], 3),
        ("waiting-running-succeed", ["Running", "Succeeded"], 2),
        ("waiting-running-succeed", ["Failed", "leaving"], 4),
        ("only-waiting", ["Running"], 4),
        ("once-satisfied", ["Running", "Running"], 2),  # bound in part: the rest is still due at once
        ("once-satisfied", ["Running", "Running", "Failed", "leaving"], 0),  # four had a node
    ],
)
def test_match_policies(policy: str, bound: list[str], minimum: int) -> None:
    waiting = [ack(f"w{i}", "4", policy=policy) for i in range(4)]
    there = [
        ack(f"b{i}", "4", policy=policy, node="n", leaving=phase == "leaving", phase=phase if phase != "leaving" else "Running")
        for i, phase in enumerate(bound)
    ]
    assert planned(Groups(), waiting, there).minimum == minimum


def test_once_satisfied_is_remembered_while_a_pod_has_a_node() -> None:
    groups = Groups()
    bound = [ack(f"b{i}", "4", node="n", phase="Running") for i in range(4)]
    again = [ack("again", "4")]
    assert planned(groups, again, bound).minimum == 0
    assert planned(groups, again, bound[:1]).minimum == 0  # the others were lost with their node
    assert "1 of 4 pods exist" in refused(groups, again)  # all are lost: it begins anew
    assert "2 of 4 pods exist" in refused(groups, again, bound[:1])


def test_only_waiting_says_who_has_a_node() -> None:
    bound = [ack("b", "4", policy="only-waiting", node="n", phase="Running")]
    waiting = [ack(f"w{i}", "4", policy="only-waiting") for i in range(3)]
    assert refused(Groups(), waiting, bound) == (
        "gang team/tf-smoke-gpu: 3 of 4 pods exist without a node (only-waiting), 1 have one; delete those to start all anew, or "
        "lower the minimum"
    )


def test_an_objects_status_tells_that_it_has_run() -> None:
    manifest = PLUGINS + "status: {phase: Running}\n"
    manifest = manifest.replace("uid: u-1", f"annotations: {{{ACK}/match-policy: once-satisfied}}")
    label = {f"{ACK}/name": "nginx"}
    bound = [pod("b", label, node="n", phase="Running")]
    assert planned(known(manifest), [pod("w", label)], bound).minimum == 0
    assert "1 of 3 pods exist" in refused(known(manifest), [pod("w", label)])


# --- what contradicts itself


@pytest.mark.parametrize(
    ("pods", "sentence"),
    [
        (
            [ack("a", "8"), ack("b", "4")],
            "gang team/tf-smoke-gpu: labels contradict each other, minimum 8 in Pod team/a and 4 in Pod team/b; make them equal",
        ),
        (
            [ack("a", "2", policy="only-waiting"), ack("b", "2", policy="once-satisfied")],
            "gang team/tf-smoke-gpu: labels contradict each other, match policy only-waiting in Pod team/a and once-satisfied in "
            "Pod team/b; make them equal",
        ),
        (
            [ack("a", "two")],
            f'Pod team/a: label {ACK}/min-available "two" is no number of pods; write a whole number from 1',
        ),
        (
            [ack("a", "0")],
            f'Pod team/a: label {ACK}/min-available "0" is no number of pods; write a whole number from 1',
        ),
        (
            [ack("a", "2", policy="once")],
            f'Pod team/a: label {ACK}/match-policy "once" is no match policy; write one of once-satisfied, waiting-and-running, '
            "waiting-running-succeed, only-waiting",
        ),
        (
            [pod("a", {f"{ACK}/name": "x"})],
            f"gang team/x: no pod says how many it needs; add label {ACK}/min-available or create PodGroup team/x",
        ),
        (
            [pod("a", {f"{ACK}/name": "x", f"{ACK}/min-available": "2"}, {f"{KOORDINATOR}/name": "y"})],
            f'Pod team/a: label {ACK}/name names gang "x" and annotation {KOORDINATOR}/name names "y"; '
            "let both name the same, or remove one",
        ),
        (
            [pod("a", {f"{ACK}/name": "x", f"{ACK}/min-available": "2"}, {f"{KOORDINATOR}/min-available": "3"})],
            f"Pod team/a: label {ACK}/min-available says 2 pods and annotation {KOORDINATOR}/min-available 3; "
            "make them equal, or remove one",
        ),
        (
            [pod("a", {"scheduling.x-k8s.io/pod-group": "x"})],
            "Pod team/a: names PodGroup team/x (scheduling.x-k8s.io), which does not exist; create it",
        ),
        (
            [volcano("a", "ps")],
            "Pod team/a: names PodGroup team/tensorflow (scheduling.volcano.sh), which does not exist; create it",
        ),
        (
            [pod("a", schedulingGroup={"podGroupName": "g"})],
            "Pod team/a: names PodGroup team/g (scheduling.k8s.io), which does not exist; create it",
        ),
        (
            [pod("a", {f"{ACK}/name": "x"}, {"scheduling.k8s.io/group-name": "y"})],
            "Pod team/a: names gangs of several APIs, volcano:team/y and team/x; remove all but one",
        ),
        (
            [pod("a", {}, {f"{KOORDINATOR}/name": "x", f"{KOORDINATOR}/min-available": "1", f"{KOORDINATOR}/groups": "team/y"})],
            f'Pod team/a: annotation {KOORDINATOR}/groups "team/y" is no list of gangs; write JSON, such as '
            '["team-a/ps","team-a/worker"]',
        ),
    ],
)
def test_contradictions_are_sentences(pods: list[Pod], sentence: str) -> None:
    assert refused(Groups(), pods) == sentence


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (
            PLUGINS,
            "Pod team/a: says that gang team/nginx needs 4 pods, PodGroup team/nginx (scheduling.x-k8s.io) says 3; "
            "make them equal, or remove it from the pod",
        ),
        (
            PLUGINS.replace("minMember: 3", "minMember: -1"),
            "PodGroup team/nginx (scheduling.x-k8s.io): spec.minMember -1 is no number of pods; write a whole number from 1",
        ),
        (
            PLUGINS.replace("scheduleTimeoutSeconds: 10", "scheduleTimeoutSeconds: soon"),
            'PodGroup team/nginx (scheduling.x-k8s.io): spec.scheduleTimeoutSeconds "soon" is no time; '
            'write seconds above 0 as a spec has them, or "10m" in an annotation',
        ),
    ],
)
def test_an_object_that_is_wrong_or_contradicted(manifest: str, sentence: str) -> None:
    label = {f"{ACK}/name": "nginx", f"{ACK}/min-available": "4"}
    assert refused(known(manifest), [pod("a", label)]) == sentence


@pytest.mark.parametrize("policy", ["{}", "{basic: {}, gang: {minCount: 2}}", "{gang: {minCount: 0}}"])
def test_a_native_policy_that_is_none(policy: str) -> None:
    groups = known(NATIVE.format(version="v1alpha2", policy=policy))
    assert "spec.schedulingPolicy" in refused(groups, [pod("a", schedulingGroup={"podGroupName": "training-worker-0"})])


def test_volcanos_sub_group_policy_is_refused_not_ignored() -> None:
    manifest = VOLCANO.replace("queue: research", "subGroupPolicy: [{name: a, minSubGroups: 2}]")
    assert "minSubGroups is not read here" in refused(known(manifest), [volcano("a", "ps")])


def test_too_few_pods() -> None:
    assert refused(Groups(), [ack("a"), ack("b")]) == (
        "gang team/tf-smoke-gpu: 2 of 3 pods exist; create 1 more, or lower the minimum"
    )


# --- larger than the cluster


def test_a_gang_larger_than_the_cluster() -> None:
    state = State([Node("a", {"cpu": 2}), Node("b", {"cpu": 2})], ("cpu",))
    state.place(0, ONE, ())  # what runs does not matter
    members = [Member(f"p{i}", ONE) for i in range(5)]
    assert too_large(state, Gang("team/train", members, 4)) == ""
    assert too_large(state, Gang("team/train", members, 5)) == (
        "gang team/train needs 5 pods at once and the empty cluster has room for 4: add nodes, or make the gang smaller"
    )
    large = [*members[:3], Member("large", Request((3,)), "ps")]
    assert too_large(state, Gang("team/train", large, 3, {"ps": 1})) == (
        'group "ps" of gang team/train needs 1 pods at once and the empty cluster has room for 0: '
        "add nodes, or make the gang smaller"
    )
