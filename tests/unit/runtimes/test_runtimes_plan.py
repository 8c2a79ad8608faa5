"""What changes between two passes: scaling, volumes that cannot be changed, names that are taken, grants that are taken back."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
import runtime_worlds as worlds
from runtime_worlds import CACHE, CLAIM, CLASSIC, DATASET, SET, VOLUME, ending, unschedulable

from forebay.api import podconfig as config
from forebay.runtimes.engine import REVISION, Drain, Found, Installation, Nudge, Plan, Ref, Subject, Warned, WorkerFacts
from forebay.runtimes.forebay.settings import grace
from forebay.runtimes.forebay.workers import ATTRIBUTES_MAX

SUBJECT = worlds.one(DATASET + CACHE)
READY = worlds.settled(SUBJECT)


def scaled(replicas: int) -> Subject:
    return worlds.one(DATASET + CACHE.replace("replicas: 3", f"replicas: {replicas}"))


def facts(**drains: Any) -> dict[str, WorkerFacts]:
    """`w2="Done"`: what worker 2 says of its drain."""
    found = {f"d-worker-{i}": WorkerFacts() for i in range(5)}
    for name, said in drains.items():
        overdue = said == "Overdue"
        found[f"d-worker-{name[1:]}"] = WorkerFacts(drain="Running" if overdue else said, overdue=overdue)
    return found


# replicas wanted, what workers say, pods (None = 3 ready) -> replicas of the StatefulSet, whom to drain, reasons of findings
@pytest.mark.parametrize(
    ("wanted", "said", "pods", "replicas", "drains", "findings"),
    [
        (3, {}, None, 3, [], []),
        (5, {}, None, 5, [], []),
        (2, {}, None, 3, ["d-worker-2"], []),
        (1, {}, None, 3, ["d-worker-2"], []),
        (2, {"w2": "Running"}, None, 3, ["d-worker-2"], []),
        (2, {"w2": "Done"}, None, 2, [], []),
        (1, {"w2": "Done"}, None, 2, ["d-worker-1"], []),
        (1, {"w1": "Done"}, None, 3, ["d-worker-2"], []),  # never another than the highest
        (1, {"w2": "Done", "w1": "Done"}, None, 1, [], []),
        (2, {"w2": "Refused"}, None, 2, [], ["DrainIncomplete"]),
        (1, {"w2": "Overdue"}, None, 2, ["d-worker-1"], ["DrainIncomplete"]),
        (0, {}, None, 0, [], []),  # nobody to hand out to
        (2, {}, (*READY.pods[:2], unschedulable("d-worker-2")), 2, [], []),  # it has nothing
        (1, {}, READY.pods[:2], 2, ["d-worker-1"], []),
        (1, {}, (), 1, [], []),
    ],
)  # fmt: skip
def test_scaling(wanted: int, said: dict[str, str], pods: Any, replicas: int, drains: list[str], findings: list[str]) -> None:
    found = msgspec.structs.replace(READY, workers=facts(**said), pods=READY.pods if pods is None else pods)
    planned = worlds.plan(scaled(wanted), found)
    assert worlds.stateful_set(planned)["spec"]["replicas"] == replicas
    assert planned.drain == tuple(map(Drain, drains))
    assert [f.reason for f in planned.findings] == findings


def test_scaling_in_walks_down_one_by_one_and_ends() -> None:
    found, seen = READY, []
    said: dict[str, str] = {}
    for _ in range(10):
        planned = worlds.plan(scaled(1), msgspec.structs.replace(found, workers=facts(**said)))
        replicas = worlds.stateful_set(planned)["spec"]["replicas"]
        seen.append(replicas)
        said = {f"w{d.pod.rpartition('-')[2]}": "Done" for d in planned.drain}
        objects = {**found.objects, SET: worlds.stateful_set(planned)}
        found = msgspec.structs.replace(found, objects=objects, pods=found.pods[:replicas])
    assert seen == [3, 2, 1, 1, 1, 1, 1, 1, 1, 1]


def test_a_drained_worker_that_is_wanted_again_starts_anew() -> None:
    planned = worlds.plan(SUBJECT, msgspec.structs.replace(READY, workers=facts(w2="Done")))
    assert planned.delete == (Ref("Pod", "ns", "d-worker-2"),)
    assert worlds.stateful_set(planned)["spec"]["replicas"] == 3


def test_the_secret_is_made_once_and_never_written_again() -> None:
    assert [o["kind"] for o in worlds.plan(SUBJECT).create] == ["Secret"]
    again = worlds.plan(SUBJECT, READY)
    assert again.create == ()
    assert all(o["kind"] != "Secret" for o in again.apply)
    assert not any(ref.kind == "Secret" for ref in again.delete)
    with pytest.raises(ValueError, match="fresh_secret is empty"):
        worlds.plan(SUBJECT, Found())


def test_a_settled_dataset_plans_what_exists() -> None:
    first, again = worlds.plan(SUBJECT), worlds.plan(SUBJECT, READY)
    assert (again.apply, again.delete, again.drain, again.findings) == (first.apply, (), (), ())


def test_kubelets_of_running_workers_are_told_of_a_changed_configuration_once() -> None:
    assert worlds.plan(SUBJECT).nudge == (), "workers that are still to be made read it when they start"
    assert worlds.plan(SUBJECT, READY).nudge == ()
    config = Ref("ConfigMap", "ns", "d-forebay")
    (wanted,) = [o for o in worlds.plan(SUBJECT).apply if o["kind"] == "ConfigMap"]
    revision = wanted["metadata"]["annotations"][REVISION]
    before = copy.deepcopy(wanted)
    before["metadata"]["annotations"][REVISION] = "of before"
    found = msgspec.structs.replace(READY, objects={**READY.objects, config: before})
    assert worlds.plan(SUBJECT, found).nudge == tuple(Nudge(f"d-worker-{i}", revision) for i in range(3))
    leaving = copy.deepcopy(found.pods[1])
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    unplaced = {**found.pods[2], "spec": {}}
    found = msgspec.structs.replace(found, pods=(found.pods[0], leaving, unplaced))
    assert [n.pod for n in worlds.plan(SUBJECT, found).nudge] == ["d-worker-0"]


def test_marks_carry_the_uid_and_nothing_else() -> None:
    dataset, runtime = worlds.plan(SUBJECT).apply[:2]
    assert (dataset["kind"], runtime["kind"]) == ("Dataset", "CacheRuntime")
    assert set(dataset) == set(runtime) == {"apiVersion", "kind", "metadata"}
    assert dataset["metadata"]["uid"] == SUBJECT.dataset["metadata"]["uid"]
    assert dataset["metadata"]["finalizers"] == ["fluid-dataset-controller-finalizer"]
    assert runtime["metadata"]["finalizers"] == ["cache-runtime-controller-finalizer"]
    assert runtime["metadata"]["ownerReferences"][0]["uid"] == dataset["metadata"]["uid"]


def volume_with(**spec: Any) -> dict[Ref, Any]:
    volume = copy.deepcopy(READY.objects[VOLUME])
    status = spec.pop("status", volume["status"])
    return {**READY.objects, VOLUME: {**volume, "spec": {**volume["spec"], **spec}, "status": status}}


CLAIM_REF = {"namespace": "ns", "name": "d"}


@pytest.mark.parametrize(
    ("objects", "why"),
    [
        (volume_with(status={"phase": "Released"}), "is Released"),
        (volume_with(claimRef={**CLAIM_REF, "uid": "earlier"}), "is bound to an earlier claim"),
        (volume_with(csi={"driver": "forebay.io"}), "has another csi"),
        (volume_with(nodeAffinity={"required": {}}), "has another nodeAffinity"),
        (volume_with(accessModes=["ReadWriteMany"]), "has another accessModes"),
    ],
)
def test_a_volume_that_cannot_be_changed_is_made_anew_without_readers(objects: dict[Ref, Any], why: str) -> None:
    found = msgspec.structs.replace(READY, objects=objects)
    planned = worlds.plan(SUBJECT, found)
    assert planned.delete == (CLAIM, VOLUME)
    assert [f.reason for f in planned.findings] == ["VolumeOutdated"]
    assert why in planned.findings[0].message
    assert not {"PersistentVolume", "PersistentVolumeClaim"} & {o["kind"] for o in planned.apply}

    held = worlds.plan(SUBJECT, msgspec.structs.replace(found, users=("reader",)))
    assert held.delete == ()
    assert "once no pod uses claim d (now: reader)" in held.findings[0].message
    assert {o["kind"] for o in held.apply} >= {"StatefulSet", "ConfigMap"}  # the rest goes on


def test_an_object_of_somebody_else_is_left_alone() -> None:
    for ref in (r for r in READY.objects if r.kind != "Secret"):
        taken = {"kind": ref.kind, "metadata": {"name": ref.name, "namespace": ref.namespace, "labels": {"app": "x"}}}
        planned = worlds.plan(SUBJECT, Found(objects={ref: taken}, fresh_secret=worlds.SECRET))
        assert planned == Plan(findings=planned.findings)
        assert [f.reason for f in planned.findings] == ["NameTaken"]
        assert str(ref) in planned.findings[0].message
        retired = worlds.plan(msgspec.structs.replace(SUBJECT, dataset=ending(SUBJECT.dataset)), Found(objects={ref: taken}))
        assert (retired.delete, retired.release) == ((), True)


def test_what_is_no_longer_wanted_goes() -> None:
    plain = DATASET.replace('anonymous: "true"', "access_key: A, secret_key: B, endpoint: 'http://s3'")
    with_policy = worlds.one(plain + CACHE, Installation(network_policy=True))
    found = worlds.settled(with_policy)
    kinds = {o["kind"] for o in worlds.plan(with_policy).apply}
    assert "NetworkPolicy" in kinds
    planned = worlds.plan(SUBJECT, found)
    assert set(planned.delete) == {Ref("NetworkPolicy", "ns", "d-worker")}


def test_secrets_are_made_once_and_again_when_a_pod_misses_them() -> None:
    plain = worlds.one(DATASET.replace('anonymous: "true"', "access_key: A, secret_key: B, endpoint: 'http://s3'") + CACHE)
    first = worlds.plan(plain).create
    secret, credentials = (o["metadata"]["name"] for o in first)
    assert [o["metadata"]["ownerReferences"][0]["kind"] for o in first] == ["Dataset", "Dataset"]
    ready = worlds.settled(plain)
    assert worlds.plan(plain, ready).create == ()
    said = f'MountVolume.SetUp failed for volume "secret" : secret "{secret}" not found'
    missed = msgspec.structs.replace(
        ready, warned=(Warned(Ref("Pod", "ns", "d-worker-0"), "FailedMount", said),), fresh_secret=worlds.SECRET
    )
    assert [o["metadata"]["name"] for o in worlds.plan(plain, missed).create] == [secret]
    other = worlds.one(DATASET.replace('anonymous: "true"', "access_key: A, secret_key: C, endpoint: 'http://s3'") + CACHE)
    (changed,) = worlds.plan(other, ready).create
    assert changed["metadata"]["name"] not in (secret, credentials)
    assert changed["immutable"] is True


def test_what_somebody_took_the_labels_from_stays_ours() -> None:
    stripped = {
        ref: {**o, "metadata": {k: v for k, v in o["metadata"].items() if k != "labels"}} for ref, o in READY.objects.items()
    }
    planned = worlds.plan(SUBJECT, msgspec.structs.replace(READY, objects=stripped))
    assert [f.reason for f in planned.findings if f.severity == "error"] == []
    assert planned.apply == worlds.plan(SUBJECT, READY).apply


def references() -> dict[tuple[str, str], Subject]:
    text = (worlds.HERE / "manifests" / "references.yaml").read_text()
    return {s.key: s for s in worlds.subjects(worlds.documents(text))}


def test_a_reference_has_a_handle_of_its_own_and_the_sources_secret() -> None:
    granted = worlds.plan(references()["team-b", "granted"])
    volume = next(o for o in granted.apply if o["kind"] == "PersistentVolume")
    claim = next(o for o in granted.apply if o["kind"] == "PersistentVolumeClaim")
    csi = volume["spec"]["csi"]
    assert csi["volumeHandle"] == "team-b/granted"
    source = worlds.plan(references()["default", "corpus"]).create[0]["metadata"]["name"]
    assert csi["nodePublishSecretRef"] == {"name": source, "namespace": "default"}
    assert csi["volumeAttributes"]["forebay.io/dataset"] == "default/corpus"
    assert csi["volumeAttributes"]["fluid_sub_path"] == "train/images"
    assert claim["metadata"]["labels"]["fluid.io/dataset.referring-name"] == "corpus"
    assert claim["metadata"]["labels"]["fluid.io/dataset.referring-namespace"] == "default"
    assert not {"StatefulSet", "Secret", "ConfigMap"} & {o["kind"] for o in granted.apply}


def test_a_grant_that_is_taken_back_takes_the_claim() -> None:
    subject = references()["team-b", "granted"]
    found = worlds.settled(subject)
    assert worlds.observe(subject, found).dataset.phase == "Bound"
    assert subject.source is not None
    revoked = msgspec.structs.replace(subject, source=msgspec.structs.replace(subject.source, grants=()))
    planned, observed = worlds.plan(revoked, found), worlds.observe(revoked, found)
    assert [r.kind for r in planned.delete] == ["PersistentVolumeClaim", "PersistentVolume"]
    assert planned.apply == ()
    assert (observed.dataset.phase, observed.mountable) == ("NotBound", False)


@pytest.mark.parametrize(
    ("change", "reason", "part"),
    [
        ({"expires": "2026-11-27T04:59:59Z"}, "NotGranted", "it ended at"),
        ({"expires": "2026-11-27T05:00:01Z"}, "", ""),
        ({"dataset": "other"}, "NotGranted", "no DatasetGrant lets namespace team-b refer to /train/images of default/corpus;"),
        ({"namespaceSelector": {"matchLabels": {"team": "c"}}}, "NotGranted", "it does not name namespace team-b"),
        ({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "Near"}]}}, "NotGranted", "Near is no operator"),
        ({"namespaces": "team-b"}, "NotGranted", "it cannot be read"),
        ({"paths": ["/tra"]}, "NotGranted", "it gives /tra, not /train/images"),
    ],
)
def test_grants(change: dict[str, Any], reason: str, part: str) -> None:
    subject = references()["team-b", "granted"]
    assert subject.source is not None
    grant = copy.deepcopy(subject.source.grants[0])
    grant["spec"] |= change
    changed = msgspec.structs.replace(subject, source=msgspec.structs.replace(subject.source, grants=(grant,)))
    planned = worlds.plan(changed)
    assert [f.reason for f in planned.findings] == [reason] * bool(reason)
    assert part in "".join(f.message for f in planned.findings)


@pytest.mark.parametrize(
    ("point", "part"),
    [
        ("dataset://default/corpus/../secret", 'holds a ".." part'),
        ("dataset://default/corpus/a/./b", 'holds a "." part'),
        ("dataset://default", "names no dataset"),
        ("dataset:///x", "names no dataset"),
    ],
)
def test_tricks_in_references_are_refused(point: str, part: str) -> None:
    subject = references()["default", "near"]
    dataset = {**subject.dataset, "spec": {"mounts": [{"mountPoint": point, "name": "x"}]}}
    changed = msgspec.structs.replace(subject, dataset=dataset)
    assert [f.reason for f in worlds.plan(changed).findings] == ["SpecRefused"]
    assert part in worlds.plan(changed).findings[0].message
    observed = worlds.observe(changed)
    assert (observed.dataset.phase, observed.mountable) == ("Failed", False)


def test_a_reference_waits_for_its_source_and_shows_its_numbers() -> None:
    subject = references()["default", "near"]
    assert subject.source is not None
    status = worlds.observe(subject, worlds.settled(subject)).dataset
    assert (status.phase, status.ufs_total, status.file_num) == ("Bound", "5.00GiB", "7")
    waits = msgspec.structs.replace(subject, source=msgspec.structs.replace(subject.source, bound=False))
    assert worlds.observe(waits, worlds.settled(subject)).dataset.phase == "NotBound"


def test_memory_tiers_count_in_request_and_limit() -> None:
    levels = "{processMemory: {quota: 3Gi}}, {emptyDir: {quota: 1Gi, medium: Memory}}, {emptyDir: {quota: 9Gi}}"
    tiers = f"tieredStore: {{levels: [{levels}]}}"
    text = CACHE.replace("tieredStore: {levels: [{emptyDir: {quota: 1Gi}}]}", tiers)

    def asked(worker: str, installation: Installation = worlds.NATIVE) -> tuple[Any, Any]:
        subject = worlds.one(DATASET + text.replace("worker: {", f"worker: {{{worker}"), installation)
        pod = worlds.stateful_set(worlds.plan(subject))["spec"]["template"]["spec"]
        found = pod["containers"][0]["resources"]
        return found["requests"]["memory"], found["limits"]["memory"]

    assert asked("") == ("4352Mi", "5Gi")
    assert asked("resources: {requests: {memory: 2Gi}}, ") == ("6Gi", "6Gi")
    assert asked("resources: {limits: {memory: 2Gi}}, ") == ("6Gi", "6Gi")  # a limit alone is the request, as in Kubernetes
    assert asked("resources: {requests: {memory: 1Gi}, limits: {memory: 2Gi}}, ") == ("5Gi", "6Gi")
    more = "resources: {requests: {memory: 3Gi}, limits: {memory: 2Gi}}, "
    bad = worlds.one(DATASET + text.replace("worker: {", f"worker: {{{more}"))
    assert "below the request of 3Gi" in worlds.plan(bad).findings[0].message


@pytest.mark.parametrize(
    ("capacity", "seconds"), [(0, 30), (1, 31), (100_000_000, 31), (10**9, 40), (10**12, 3600), (None, 3600)]
)
def test_the_grace_of_a_pod_is_bounded(capacity: int | None, seconds: int) -> None:
    assert grace(capacity, 100_000_000) == seconds


def test_a_change_of_mounts_starts_no_worker_again_but_a_change_of_tiers_does() -> None:
    def template(text: str) -> Any:
        return worlds.stateful_set(worlds.plan(worlds.one(text)))["spec"]["template"]

    one = template(DATASET + CACHE)
    other_mounts = DATASET.replace("https://h/x/", "https://h/y/") + CACHE
    assert template(other_mounts) == one
    assert template(DATASET + CACHE.replace("quota: 1Gi", "quota: 2Gi")) != one
    maps = [worlds.plan(worlds.one(t)).apply[2] for t in (DATASET + CACHE, other_mounts)]
    revisions = {m["metadata"]["annotations"]["forebay.io/config-revision"] for m in maps}
    assert len(revisions) == 2


def test_attributes_that_csi_would_refuse_are_refused_first() -> None:
    long = CLASSIC.replace("path: /c", f"path: /{'c' * 127}")
    assert "more than 128 bytes" in worlds.plan(worlds.one(DATASET + long)).findings[-1].message
    many = ",".join(f"/d{i}/{'x' * 90}" for i in range(40))
    planned = worlds.plan(worlds.one(DATASET + CLASSIC.replace("path: /c, quota: 1Gi", f"path: '{many}', quota: 40Gi")))
    assert f"more than {ATTRIBUTES_MAX} bytes" in planned.findings[-1].message
    assert planned.apply == ()


@pytest.mark.parametrize(
    ("text", "replicas"),
    [
        (DATASET, 1),
        (DATASET + CLASSIC.replace("replicas: 3, ", ""), 1),
        (DATASET + CLASSIC.replace("replicas: 3", "worker: {replicas: 2}"), 2),
        (DATASET + CACHE.replace("replicas: 3, ", ""), 1),
        (DATASET + CACHE.replace("replicas: 3", "disabled: true"), 0),
        (DATASET + CACHE.partition("spec:")[0] + "spec: {runtimeClassName: forebay}\n", 0),
    ],
)
def test_replicas(text: str, replicas: int) -> None:
    assert worlds.stateful_set(worlds.plan(worlds.one(text)))["spec"]["replicas"] == replicas


def test_placement() -> None:
    def apart(placement: str) -> Any:
        subject = worlds.one(DATASET.replace("spec: {", f"spec: {{placement: {placement}, ") + CACHE)
        return worlds.stateful_set(worlds.plan(subject))["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]

    required = "requiredDuringSchedulingIgnoredDuringExecution"
    exclusive, shared = apart("Exclusive"), apart("Shared")
    assert apart('""') == exclusive
    assert [t["labelSelector"]["matchExpressions"][0]["key"] for t in exclusive[required]] == ["fluid.io/dataset"]
    assert [t["labelSelector"]["matchExpressions"][0]["key"] for t in shared[required]] == [
        "fluid.io/dataset-placement",
        "forebay.io/dataset",  # two workers of one dataset would hold one directory
    ]
    assert shared["preferredDuringSchedulingIgnoredDuringExecution"][0]["weight"] == 50


def test_no_user_where_the_platform_gives_one() -> None:
    subject = worlds.one(DATASET + CACHE, Installation(uid=None, priority_class="high"))
    pod = worlds.stateful_set(worlds.plan(subject))["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["priorityClassName"] == "high"


def test_the_configuration_comes_back_as_it_was() -> None:
    found = worlds.config_of(worlds.plan(SUBJECT))
    assert config.decode(config.encode(found).encode()) == found
    assert found.spec.id == "ns/d"
    with pytest.raises(ValueError, match="newer than this image"):
        config.decode(config.encode(msgspec.structs.replace(found, version=2)).encode())
    with pytest.raises(ValueError, match="is no configuration of a worker"):
        config.decode(b"{}")
    with pytest.raises(ValueError, match="names files of 0 mounts, but has 2"):
        config.decode(config.encode(msgspec.structs.replace(found, files=[])).encode())


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("not json", "is no JSON list"),
        ('{"a": 1}', "is no JSON list"),
        ('[{"selector": {"kind": "Pod"}}]', 'selects "Pod"'),
        ("[3]", "is no JSON"),
    ],
)
def test_a_bad_metadata_list_is_said_and_costs_nothing_else(text: str, label: str) -> None:
    subject = worlds.one(DATASET + CACHE)
    meta = {**subject.runtimes[0]["metadata"], "annotations": {"data.fluid.io/metadataList": text}}
    changed = msgspec.structs.replace(subject, runtimes=({**subject.runtimes[0], "metadata": meta},))
    planned = worlds.plan(changed)
    assert [f.reason for f in planned.findings] == ["MetadataListIgnored"]
    assert label in planned.findings[0].message
    assert planned.apply == worlds.plan(subject).apply


@pytest.mark.parametrize(("size", "used"), [("2Ti", "2Ti"), ("many", "100Pi"), ("-1", "100Pi"), ("0", "100Pi")])
def test_the_size_of_a_claim(size: str, used: str) -> None:
    text = DATASET.replace("generation: 4", f"generation: 4, annotations: {{pvc.fluid.io/resources.requests.storage: '{size}'}}")
    planned = worlds.plan(worlds.one(text + CACHE))
    claim = next(o for o in planned.apply if o["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["resources"]["requests"]["storage"] == used
    assert [f.reason for f in planned.findings] == ["SizeIgnored"] * (used != size)


def test_what_a_client_is_given_bounds_what_nodes_keep_and_starts_no_worker() -> None:
    def planned(client: str) -> tuple[config.Config, str]:
        objects = worlds.plan(worlds.one(DATASET + CACHE.replace("spec: {", f"spec: {{{client}"))).apply
        (made,) = (o["data"]["config.json"] for o in objects if o["kind"] == "ConfigMap")
        (pods,) = (o["spec"]["template"]["metadata"]["annotations"] for o in objects if o["kind"] == "StatefulSet")
        return config.decode(made.encode()), pods["forebay.io/fixed-config"]

    without, before = planned("")
    given, after = planned(
        "client: {tieredStore: {levels: [{emptyDir: {quota: 1Gi}}, {hostPath: {paths: [/a], quotas: [2Gi]}}]}}, "
    )
    assert (without.reader_quota, given.reader_quota) == (0, 3 << 30)
    assert given.spec.tiers == without.spec.tiers, "the worker's own"
    assert before == after


def ignored(text: str) -> list[str]:
    found = [f.message for f in worlds.plan(worlds.one(text)).findings if f.reason == "FieldsIgnored"]
    return found[0].partition(":")[0].split(", ") if found else []


def test_every_field_that_nothing_acts_on_is_named_once() -> None:
    assert ignored(DATASET + CACHE) == ignored(DATASET + CLASSIC) == []
    assert ignored(DATASET.replace("spec: {", "spec: {dataRestoreLocation: {path: 'local:///b'}, ") + CACHE) == [
        "Dataset spec.dataRestoreLocation"
    ]
    levels = "{emptyDir: {quota: 1Gi}}, {hostPath: {paths: [/a], quotas: [2Gi]}}"
    tiers = f"client: {{tieredStore: {{levels: [{levels}]}}, env: [{{name: a, value: b}}]}}, options: {{a: b}}, master: {{}}"
    assert ignored(DATASET + CACHE.replace("spec: {", f"spec: {{{tiers}, ")) == [
        "spec.client.env", "spec.client.tieredStore.levels[1] (but its quota)", "spec.options",
    ]  # fmt: skip
    level = CLASSIC.replace("path: /c", "volumeType: emptyDir, volumeSource: {emptyDir: {}}, path: /c")
    assert ignored(DATASET + level.replace("replicas: 3", "replicas: 3, worker: {env: {A: b}}, properties: {}")) == [
        "spec.tieredstore.levels[0].volumeSource", "spec.worker.env",
    ]  # fmt: skip
