"""The status of a dataset and its runtime by what exists now. Nothing is carried over from the last pass but times.

Phases: `Bound` means that a pod which names the claim reads, because a worker is ready and the claim is bound; `Updating`
that some workers still serve the mounts of before; `Failed` that the spec must be corrected and nothing serves; else `NotBound`.
"""

from __future__ import annotations

import msgspec

from forebay.api.conditions import Condition
from forebay.api.fluid import names as fluid
from forebay.api.fluid.status import CALCULATING, BoundRuntime, DatasetPhase, DatasetStatus, Measured, cache_states, totals
from forebay.runtimes.binding import bound_runtime
from forebay.runtimes.engine import Finding, Found, Object, Observed, Ref, Subject
from forebay.runtimes.forebay import reference
from forebay.runtimes.forebay.names import Names, names_of
from forebay.runtimes.forebay.planning import ending, in_use
from forebay.runtimes.forebay.pods import worst
from forebay.runtimes.forebay.runtime_status import runtime_status
from forebay.runtimes.forebay.settings import reads_only
from forebay.runtimes.forebay.view import (
    NAME,
    View,
    event,
    full,
    measured,
    merged,
    refused_set,
    say,
    sentences,
    trouble,
    view,
    why_none,
)
from forebay.runtimes.states import DELETING, generation, idle, written_mounts

READY = "The ddc runtime is ready."
"""Fluid's own words: scripts look for them."""
ACCESS_REDUCED, ANSWER, ADMITS = "AccessReduced", "StoresAnswer", "CacheAdmits"
"""Condition types of ours, beside Fluid's."""


_TO_MEND = ("ImageMissing", "Misconfigured", "MountFailed", "QuotaExceeded", "PodRefused")


class Verdict(msgspec.Struct, frozen=True):
    phase: DatasetPhase
    reason: str
    message: str

    @property
    def bound(self) -> bool:
        return self.phase in ("Bound", "Updating")


def observe(subject: Subject, found: Found, now: str) -> Observed:
    try:
        target = reference.target_of(subject.dataset)
    except ValueError as e:
        refused = Finding("error", "SpecRefused", str(e))
        return _only_dataset(subject, found, now, Verdict("Failed", refused.reason, refused.message), (refused,))
    if target is not None:
        return _reference(subject, target, found, now)
    seen = view(subject, found)
    verdict = judge(seen)
    runtime = bound_runtime(subject)
    status = None if runtime is None else runtime_status(seen, runtime, now)
    return Observed(
        dataset=_dataset(seen, verdict, now),
        runtime=status,
        mountable=verdict.bound and not ending(subject),
        findings=(*seen.wanted.findings, *_told(verdict), *(f for f in (trouble(seen), full(seen)) if f is not None)),
    )


def _told(verdict: Verdict) -> tuple[Finding, ...]:
    """What keeps workers from starting until somebody does something about it is an Event too."""
    return (Finding("warning", verdict.reason, verdict.message),) if verdict.reason in _TO_MEND else ()


def judge(seen: View) -> Verdict:
    """The first thing that keeps a pod from reading, most fundamental first."""
    if ending(seen.subject) and (not seen.ready or claim_problem(seen.names, seen.found)):
        return Verdict("NotBound", "TakingAway", "claim, volume and workers are being taken away")
    if not seen.ready and seen.errors:
        return Verdict("Failed", seen.errors[0].reason, sentences(seen.errors))
    if seen.desired == 0 and not seen.ready:
        text = f"the dataset has 0 workers, so nobody reads its stores; kubectl scale its runtime {seen.names.name} to 1 or more"
        return Verdict("NotBound", "ScaledToZero", text)
    if seen.current is None:
        return Verdict("NotBound", "WorkersMissing", refused_set(seen) or "the workers are being made")
    if not seen.ready:
        return Verdict("NotBound", *why_none(seen))
    if problem := claim_problem(seen.names, seen.found):
        return Verdict("NotBound", *problem)
    if seen.behind:
        text = f"{len(seen.behind)} of {len(seen.ready)} ready workers still serve the mounts of before"
        return Verdict("Updating", "DatasetUpdating", text)
    but = "".join(f" But {f.message}" for f in (trouble(seen), full(seen)) if f is not None)
    if len(seen.ready) >= seen.desired:
        return Verdict("Bound", "DatasetReady", f"{READY}{but}")
    bad = worst(seen.pods)
    why = f"; {bad.name}: {bad.why}" if bad is not None else f": {said}" if (said := refused_set(seen)) else ""
    return Verdict("Bound", "DatasetReady", f"{READY} {len(seen.ready)} of {seen.desired} workers serve{why}{but}")


def claim_problem(names: Names, found: Found) -> tuple[str, str] | None:
    """Why no pod can use the claim: (reason, message)."""
    claim = found.objects.get(Ref("PersistentVolumeClaim", names.namespace, names.claim))
    volume = found.objects.get(Ref("PersistentVolume", "", names.volume))
    if claim is None or volume is None:
        missing = f"PersistentVolumeClaim {names.claim}" if claim is None else f"PersistentVolume {names.volume}"
        return "ClaimMissing", f"{missing} is being made"
    if claim["metadata"].get("deletionTimestamp"):
        return (
            "ClaimEnding",
            f"PersistentVolumeClaim {names.claim} is being deleted; it goes when no pod uses it, and is made anew then",
        )
    phase = (claim.get("status") or {}).get("phase", "Pending")
    if phase == "Bound":
        return None
    state = (volume.get("status") or {}).get("phase", "Pending")
    why = event(found, "PersistentVolumeClaim", names.claim)
    text = f"PersistentVolumeClaim {names.claim} is {phase}, PersistentVolume {names.volume} is {state}" + (
        f": {why}" if why else ""
    )
    return ("ClaimLost" if phase == "Lost" else "ClaimNotBound"), text


# --- Dataset --------------------------------------------------------------------------------------------------------


def _dataset(seen: View, verdict: Verdict, now: str) -> DatasetStatus:
    dataset, found = seen.subject.dataset, seen.found
    runtime, facts = bound_runtime(seen.subject), measured(seen)
    places = None
    if seen.behind and (said := [frozenset(found_) for p in seen.ready if (found_ := seen.facts(p).places)]):
        places = frozenset.intersection(*said)
    total, files = totals(facts) if facts is not None else (CALCULATING, CALCULATING)
    served = seen.current is not None
    updating = verdict.phase == "Updating"
    refused = bool(seen.errors)
    writable = seen.settings.writable if seen.settings else ()
    wanted = [
        say("RuntimeScheduled", served, "WorkersMade" if served else verdict.reason, "" if served else verdict.message),
        say("Initialized", served and bool(seen.ready), "WorkerReady" if seen.ready else "NoWorkerReady", ""),
        say("Ready", verdict.bound, "DatasetReady" if verdict.bound else verdict.reason, verdict.message),
        say(
            "NotReady",
            verdict.phase == "Failed",
            "DatasetFailedToSetup" if verdict.phase == "Failed" else "NotFailed",
            verdict.message if verdict.phase == "Failed" else "",
        ),
        say("Updating", updating, "DatasetUpdating" if updating else "UpToDate", verdict.message if updating else ""),
        say(
            "UpdateReady",
            not updating and not refused,
            "SpecRefused" if refused else "DatasetUpdating" if updating else "UpToDate",
            f"what was served before stays: {sentences(seen.errors)}" if refused and seen.ready else sentences(seen.errors),
        ),
        say(
            ACCESS_REDUCED, bool(writable), "EngineReadsOnly" if writable else "AsAsked", reads_only(writable) if writable else ""
        ),
        _answer(seen, facts),
        _admits(seen, facts),
        *_deleting(seen.subject, found),
    ]
    return DatasetStatus(
        conditions=merged(dataset, wanted, now),
        phase=verdict.phase,
        observed_generation=generation(dataset),
        engine=NAME,
        mounts=written_mounts(dataset, places) if verdict.bound else (),
        ufs_total=total,
        file_num=files,
        cache_states=cache_states(facts) if facts is not None else {},
        measured=facts if facts is not None else msgspec.UNSET,
        runtimes=(_bound(runtime),) if served and runtime is not None else (),
        operation_ref=dict(sorted(found.operations.items())),
        dataset_ref=tuple(sorted(found.referrers)),
    )


def _answer(seen: View, facts: Measured | None) -> Condition:
    """Whether the stores give what they are asked for, as workers say."""
    if (failing := trouble(seen)) is not None:
        return say(ANSWER, False, failing.reason, failing.message)
    if facts is None or not seen.ready:
        return say(ANSWER, False, "NotAskedYet", "no worker has said what its stores give")
    return say(ANSWER, True, "Listed" if facts.listed else "Listing", "")


def _admits(seen: View, facts: Measured | None) -> Condition:
    """Whether workers keep what they fetch, as they say."""
    if (stopped := full(seen)) is not None:
        return say(ADMITS, False, stopped.reason, stopped.message)
    if facts is None or not seen.ready:
        return say(ADMITS, False, "NotAskedYet", "no worker has said what its disks have free")
    return say(ADMITS, True, "RoomLeft", "")


def _deleting(subject: Subject, found: Found) -> tuple[Condition, ...]:
    """Only on an object that is going away, so that it cannot outlive its truth."""
    if not ending(subject):
        return ()
    held = in_use(found)
    text = held.message if held else "claim, volume and workers are being taken away"
    return (say(DELETING, True, held.reason if held else "TakingAway", text),)


def _bound(runtime: Object) -> BoundRuntime:
    meta = runtime["metadata"]
    return BoundRuntime(
        name=meta["name"], namespace=meta.get("namespace", "default"), category="Accelerate", type=fluid.TYPES[runtime["kind"]]
    )


# --- references -----------------------------------------------------------------------------------------------------


def _reference(subject: Subject, target: reference.Target, found: Found, now: str) -> Observed:
    refused = reference.refused(subject, target, now)
    if refused is not None:
        return _only_dataset(subject, found, now, Verdict("NotBound", refused.reason, refused.message), (refused,))
    assert subject.source is not None
    if problem := claim_problem(names_of(subject), found):
        verdict = Verdict("NotBound", *problem)
    elif not subject.source.bound:
        verdict = Verdict(
            "NotBound", "SourceNotBound", f"Dataset {target.key}, which it refers to, is not Bound; see its conditions"
        )
    else:
        verdict = Verdict("Bound", "DatasetReady", READY)
    return _only_dataset(subject, found, now, verdict, ())


def _only_dataset(subject: Subject, found: Found, now: str, verdict: Verdict, findings: tuple[Finding, ...]) -> Observed:
    """A Dataset without workers of its own: what it shows of its source is the source's."""
    dataset = subject.dataset
    modes = tuple(m for m in (dataset.get("spec") or {}).get("accessModes") or [] if m != "ReadOnlyMany")
    failed = verdict.phase == "Failed"
    wanted = [
        say(
            "RuntimeScheduled",
            not findings,
            findings[0].reason if findings else "SourceServes",
            verdict.message if findings else "",
        ),
        say("Ready", verdict.bound, verdict.reason, verdict.message),
        say("NotReady", failed, "DatasetFailedToSetup" if failed else "NotFailed", verdict.message if failed else ""),
        say(ACCESS_REDUCED, bool(modes), "EngineReadsOnly" if modes else "AsAsked", reads_only(modes) if modes else ""),
        *_deleting(subject, found),
    ]
    source: Object = (subject.source.subject.dataset.get("status") or {}) if subject.source and not findings else {}
    status = DatasetStatus(
        conditions=merged(dataset, wanted, now),
        phase=verdict.phase,
        observed_generation=generation(dataset),
        engine=NAME,
        mounts=written_mounts(dataset) if verdict.bound else (),
        ufs_total=source.get("ufsTotal", ""),
        file_num=source.get("fileNum", ""),
        cache_states=source.get("cacheStates") or {},
        measured=msgspec.convert(source["measured"], Measured) if source.get("measured") else msgspec.UNSET,
        dataset_ref=tuple(sorted(found.referrers)),
    )
    runtime = bound_runtime(subject)  # one that Fluid makes for a reference, or that users write for one
    text = "a reference has no workers: those of the dataset that it refers to serve it"
    told = None if runtime is None else idle(runtime, NAME, "SourceServes", text, now)
    return Observed(dataset=status, runtime=told, mountable=verdict.bound and not ending(subject), findings=findings)
