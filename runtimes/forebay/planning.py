"""Every object that a dataset served by our engine should have now."""

from __future__ import annotations

import msgspec

from forebay.api import podconfig as config
from forebay.api.fluid import names as fluid
from forebay.api.spec import DatasetSpec
from forebay.api.spec import Tier as SpecTier
from forebay.runtimes import documents
from forebay.runtimes.binding import bound_runtime
from forebay.runtimes.engine import PROTECTION, REVISION, Finding, Found, Nudge, Object, Plan, Ref, Subject
from forebay.runtimes.forebay import around, reference, scaling, volumes
from forebay.runtimes.forebay.names import DATASET, children, names_of, ref_of
from forebay.runtimes.forebay.pods import Pod, read_pods
from forebay.runtimes.forebay.settings import read_settings
from forebay.runtimes.forebay.sources import read_sources
from forebay.runtimes.forebay.workers import Job, stateful_set, too_long

_HOLDING = {"PersistentVolumeClaim", "PersistentVolume", "StatefulSet"}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of a dataset: `job` None where it cannot be served, and the findings say why."""

    job: Job | None
    findings: tuple[Finding, ...]


def owner_of(obj: Object) -> Object:
    meta = obj["metadata"]
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "name": meta["name"],
        "uid": meta.get("uid", ""),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def read(subject: Subject) -> Wanted:
    """Of a dataset with workers, everything its objects are made from."""
    runtime, names = bound_runtime(subject), names_of(subject)
    doc, errors = documents.read(subject, runtime)
    if doc is None:
        return Wanted(job=None, findings=errors)
    if not doc.mounts:
        return Wanted(
            job=None, findings=(Finding("error", "SpecRefused", "spec.mounts is empty; add a mount: there is nothing to serve"),)
        )
    settings = read_settings(subject.dataset, doc, runtime, subject.installation)
    sources = read_sources(doc, names.credentials)
    findings = (*settings.findings, *sources.findings)
    if any(f.severity == "error" for f in findings):
        return Wanted(job=None, findings=findings)
    spec = DatasetSpec(
        names.namespace,
        names.name,
        list(sources.mounts),
        [SpecTier(t.medium, f"{config.STATE_DIR}/tiers/{i}", t.quota, t.high, t.low) for i, t in enumerate(settings.tiers)],  # type: ignore[arg-type]
        f"{config.STATE_DIR}/index",
        uid=doc.uid,
        gid=doc.gid,
        floor_ratio=settings.floor[0],
        floor_bytes=settings.floor[1],
        cluster=config.cluster(),
    )
    job = Job(
        names=names,
        owner=owner_of(runtime if runtime is not None else subject.dataset),
        dataset=owner_of(subject.dataset),
        settings=settings,
        sources=sources,
        config=config.Config(spec, list(sources.files), reader_quota=settings.reader_quota),
        installation=subject.installation,
    )
    if message := too_long(job):
        return Wanted(job=None, findings=(*findings, Finding("error", "SpecRefused", message)))
    return Wanted(job=job, findings=findings)


def ending(subject: Subject) -> bool:
    """Whether the dataset, or the runtime that serves it, is being deleted."""
    runtime = bound_runtime(subject)
    return any(obj is not None and obj["metadata"].get("deletionTimestamp") for obj in (subject.dataset, runtime))


def plan(subject: Subject, found: Found, now: str) -> Plan:
    if ending(subject):
        return retire(subject, found)
    try:
        target = reference.target_of(subject.dataset)
    except ValueError as e:
        return Plan(findings=(Finding("error", "SpecRefused", str(e)),))
    if target is not None:
        return _reference(subject, target, found, now)
    wanted = read(subject)
    if wanted.job is None:
        return Plan(findings=wanted.findings)
    job, names = wanted.job, wanted.job.names
    if foreign := _foreign(subject, found):
        return Plan(findings=(*wanted.findings, *foreign))
    existing = found.objects.get(Ref("StatefulSet", names.namespace, names.workers))
    current = None if existing is None else int((existing.get("spec") or {}).get("replicas", 1))
    pods = read_pods(found.pods, found.nodes, found.warned)
    step = scaling.scale(job.settings.replicas, current, names.workers, pods, found.workers)
    findings = (*wanted.findings, *step.findings)
    create = _secrets(job, found, existing)
    apply = [
        *_marks(subject),
        around.config_map(job),
        around.service(job),
        *([around.network_policy(job)] if job.installation.network_policy else []),
        around.disruption_budget(job),
        stateful_set(job, step.replicas),
    ]
    shown = volumes.claimed(names, owner_of(subject.dataset), job.settings, job.installation)
    claim, delete, more = _claim(shown, found)
    apply += claim
    pair = {Ref("PersistentVolumeClaim", names.namespace, names.claim), Ref("PersistentVolume", "", names.volume)}
    kept = {ref_of(obj) for obj in apply} | pair
    leftovers = tuple(ref for ref in children(names) if ref in found.objects and ref not in kept)
    again = scaling.idle(step.replicas, names.workers, pods, found.workers)
    restart = tuple(Ref("Pod", names.namespace, pod.name) for pod in again)
    return Plan(
        create=create,
        apply=tuple(apply),
        nudge=_nudges(job, found, pods),
        drain=step.drain,
        delete=(*delete, *leftovers, *restart),
        findings=(*findings, *more),
    )


def _nudges(job: Job, found: Found, pods: tuple[Pod, ...]) -> tuple[Nudge, ...]:
    """To every worker that runs while its configuration changes."""
    existing, revision = found.objects.get(Ref("ConfigMap", job.names.namespace, job.names.config)), config.revision(job.config)
    if existing is None or (existing["metadata"].get("annotations") or {}).get(REVISION) == revision:
        return ()
    return tuple(Nudge(pod.name, revision) for pod in pods if pod.node and pod.state != "Leaving")


def _secrets(job: Job, found: Found, workers: Object | None) -> tuple[Object, ...]:
    """Secrets to be made. Nobody here may read one, so what shows that it was made is a StatefulSet which mounts it: that is
    applied later. Where a pod says that it is gone it is made again."""
    mounted = _mounted_secrets(workers)
    lost = [w.message for w in found.warned if w.about.kind == "Pod" and "not found" in w.message]

    def there(name: str) -> bool:
        return name in mounted and not any(f'"{name}"' in message for message in lost)

    made: list[Object] = []
    if not there(job.names.secret):
        if not found.fresh_secret:
            raise ValueError("Found.fresh_secret is empty and the dataset has no secret yet: give one of 32 random bytes")
        made.append(around.dataset_secret(job, found.fresh_secret))
    if job.sources.plain and not there(job.names.credentials(job.sources.plain)):
        made.append(around.credentials(job))
    return tuple(made)


def _mounted_secrets(workers: Object | None) -> set[str]:
    volumes_ = (((workers or {}).get("spec") or {}).get("template", {}).get("spec") or {}).get("volumes") or []
    plain = {v["secret"].get("secretName", "") for v in volumes_ if v.get("secret")}
    projected = (s for v in volumes_ for s in (v.get("projected") or {}).get("sources") or [])
    return plain | {s["secret"].get("name", "") for s in projected if s.get("secret")}


def _claim(shown: volumes.Claimed, found: Found) -> tuple[list[Object], tuple[Ref, ...], tuple[Finding, ...]]:
    """Volume and claim; or, where the volume that exists can never fit, what must go first."""
    names = shown.names
    if not (why := volumes.stale(found.objects, shown)):
        return [volumes.volume(shown), volumes.claim(shown)], (), ()
    text = f"PersistentVolume {names.volume} {why}"
    if found.users:
        told = f"{text}; it is made anew once no pod uses claim {names.claim} (now: {_some(found.users)})"
        return [], (), (Finding("warning", "VolumeOutdated", told),)
    pair = (Ref("PersistentVolumeClaim", names.namespace, names.claim), Ref("PersistentVolume", "", names.volume))
    delete = tuple(ref for ref in pair if ref in found.objects)
    return [], delete, (Finding("warning", "VolumeOutdated", f"{text}; it is made anew"),)


def _reference(subject: Subject, target: reference.Target, found: Found, now: str) -> Plan:
    names = names_of(subject)
    finding = reference.refused(subject, target, now)
    if finding is not None and finding.reason != "NotGranted":
        return Plan(findings=(finding,))
    if finding is not None:  # never given, or taken back: pods that read now may end, no other begins
        pair = [ref for ref in children(names)[:2] if ref in found.objects and _ours(found.objects[ref], subject)]
        delete = tuple(ref for ref in pair if not found.objects[ref]["metadata"].get("deletionTimestamp"))
        return Plan(delete=delete, unprotect=_unprotect(found), findings=(finding,))
    if foreign := _foreign(subject, found):
        return Plan(findings=foreign)
    shown = reference.claimed(subject, target, names, owner_of(subject.dataset))
    claim, delete, more = _claim(shown, found)
    kept = {Ref("PersistentVolumeClaim", names.namespace, names.claim), Ref("PersistentVolume", "", names.volume)}
    leftovers = tuple(ref for ref in children(names) if ref in found.objects and ref not in kept)  # of a dataset that became one
    return Plan(apply=(*_marks(subject), *claim), delete=(*delete, *leftovers), findings=more)


def _marks(subject: Subject) -> list[Object]:
    """Our finalizers, labels and owner reference on the two objects that users made.

    Each carries the uid: applied to an object that is gone it is a conflict, and makes nothing.
    """
    names, runtime = names_of(subject), bound_runtime(subject)
    labels = {fluid.DATASET_ID: names.id}
    marked: list[Object] = [_mark(subject.dataset, labels, fluid.DATASET_FINALIZER)]
    if runtime is not None:
        mark = _mark(runtime, labels, fluid.runtime_finalizer(runtime["kind"]))
        mark["metadata"]["ownerReferences"] = [owner_of(subject.dataset)]
        marked.append(mark)
    return marked


def _mark(obj: Object, labels: dict[str, str], finalizer: str) -> Object:
    meta = obj["metadata"]
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "metadata": {
            "name": meta["name"],
            "namespace": meta.get("namespace", "default"),
            "uid": meta.get("uid", ""),
            "labels": dict(labels),
            "finalizers": [finalizer],
        },
    }


def _foreign(subject: Subject, found: Found) -> tuple[Finding, ...]:
    """Objects of our names that somebody else made: they are left alone."""
    findings = []
    for ref in children(names_of(subject)):
        existing = found.objects.get(ref)
        if existing is not None and not _ours(existing, subject):
            text = f"{ref} exists and is not of this dataset; rename the Dataset, or remove the object if nobody needs it"
            findings.append(Finding("error", "NameTaken", text))
    return tuple(findings)


def _ours(obj: Object, subject: Subject) -> bool:
    """By the labels; or, where somebody edited those, by owner or volumeHandle."""
    names, labels = names_of(subject), obj["metadata"].get("labels") or {}
    if labels.get(DATASET) == names.name and labels.get("app.kubernetes.io/managed-by") == "forebay":
        return True
    if obj["kind"] == "PersistentVolume":
        csi: Object = (obj.get("spec") or {}).get("csi") or {}
        return (csi.get("driver"), csi.get("volumeHandle")) == (subject.installation.driver, names.handle)
    uids = {o["metadata"].get("uid") for o in (subject.dataset, *subject.runtimes)}
    return any(owner.get("uid") in uids for owner in obj["metadata"].get("ownerReferences") or [])


def retire(subject: Subject, found: Found) -> Plan:
    """Take away what is ours: nothing while it is read; then claim, volume and workers, then the rest.

    The finalizers go when those three are gone. Pods of a lost node, and what only owner references hold, hold nothing up.
    """
    names = names_of(subject)
    if held := in_use(found):
        return Plan(findings=(held,))
    there = [ref for ref in children(names) if ref in found.objects and _ours(found.objects[ref], subject)]
    delete = tuple(ref for ref in there if not found.objects[ref]["metadata"].get("deletionTimestamp"))
    return Plan(delete=delete, unprotect=_unprotect(found), release=not any(ref.kind in _HOLDING for ref in there))


def _unprotect(found: Found) -> tuple[Ref, ...]:
    """No pod that runs is asked for: those that have ended have no volume any more, and none that begins gets this one."""
    if found.users or not found.completed:
        return ()
    claims = ((ref, obj["metadata"]) for ref, obj in found.objects.items() if ref.kind == "PersistentVolumeClaim")
    return tuple(ref for ref, meta in claims if meta.get("deletionTimestamp") and PROTECTION in meta.get("finalizers", ()))


def in_use(found: Found) -> Finding | None:
    """Who keeps a dataset from being deleted. Who waits for a claim that was never made holds nothing."""
    if not any(ref.kind in _HOLDING for ref in found.objects):
        return None
    if found.users:
        return Finding("warning", "InUse", f"deletion waits for pods that use the claim: {_some(found.users)}; end them")
    if found.referrers:
        text = f"deletion waits for datasets that refer to this one: {_some(found.referrers)}; delete them"
        return Finding("warning", "InUse", text)
    return None


def _some(names: tuple[str, ...]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
