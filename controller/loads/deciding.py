"""What is to be done with one DataLoad, and what its status says. Pure: facts in, a decision out.

    Pending ──► Executing ──► Complete | Failed

The end is the one thing that is read from the status: a load that has ended is not begun again, whatever became of its Job. All
else is derived on each pass: it executes where its Job is, and waits where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from forebay.api.conditions import Condition, merge
from forebay.api.fluid.names import operation_finalizer
from forebay.api.fluid.status import OperationPhase, OperationStatus, Progress, WaitingFor
from forebay.api.loadresult import LoadResult
from forebay.api.manifests.dataload import ONCE, After, LoadSpec
from forebay.api.moments import moment, rfc3339
from forebay.runtimes.engine import Finding, Loading, Object, Ref
from forebay.runtimes.states import generation, known_conditions

UNFINISHED = "Unfinished"
"""`duration` until the end, as in Fluid."""
WAITING = "Waiting"
"""Condition type of ours beside Fluid's `Complete` and `Failed`: what a load waits for, or that it does not."""
AT_ONCE = 4
"""Loads of one dataset that run at the same time; its workers take eight long orders, of which drains are some."""
WORKERS = timedelta(minutes=2)
"""How long a load waits for workers that are not ready yet, from when the Dataset was Bound or the load was made, whichever was
later: what began with the first of them would lie with it alone."""
NOT_SERVED = frozenset({"PolicyNotServed", "RunAfterNotServed"})
"""Reasons for which a load waits that no time mends: they are said in an Event too."""
FINALIZER = operation_finalizer("DataLoad")
"""Fluid's. Ours needs none: all that a load is goes with its owner."""
ENDED: tuple[OperationPhase, ...] = ("Complete", "Failed")
_TYPES = ("Complete", "Failed", WAITING)


class DatasetFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`unserved`: why no engine serves it, as (reason, message). `bound`: it serves now, `message` says why not, `since` from
    when on (RFC 3339). `ready` of the `wanted` workers are ready."""

    uid: str
    ending: bool = False
    reference: str = ""  # the mount point, of a Dataset that refers to another
    unserved: tuple[str, str] | None = None
    bound: bool = False
    since: str = ""
    message: str = ""
    wanted: int = 0
    ready: int = 0


class PodFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The one of the Job's pods that counts. `trouble`: why it does not run, in the kubelet's or the scheduler's words."""

    name: str = ""
    ended: bool = False
    result: LoadResult | None = None
    words: str = ""  # its message, where it is no result
    trouble: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    load: Object
    spec: LoadSpec | None  # None where it cannot be read: `refused` says why
    refused: str = ""
    dataset: DatasetFacts | None = None  # None where there is no such Dataset
    dataset_key: tuple[str, str] = ("", "")
    loading: Loading | None = None  # None where the engine loads nothing, or none serves
    job: Object | None = None  # of this very DataLoad
    taken: bool = False  # a Job of that name is somebody else's, or of an earlier DataLoad
    pod: PodFacts = PodFacts()
    warned: str = ""  # what an Event says against the Job
    ahead: tuple[str, ...] = ()  # loads of the dataset that run, or are to run first
    before: Object | None = None  # what runAfter names


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Carried out in this order: `create`, `own`, `delete`, the status, the Event, `remove`."""

    status: OperationStatus | None = None  # None: it says the same as before
    create: tuple[Object, ...] = ()
    own: str = ""  # uid of the Dataset that is to own the load
    delete: tuple[Ref, ...] = ()
    release: bool = False
    remove: bool = False  # the load itself: its time is over
    findings: tuple[Finding, ...] = ()
    told: tuple[str, str] | None = None  # reason and message of the Event that goes with a new status
    until: datetime | None = None  # when the next decision comes by time alone


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    phase: OperationPhase
    reason: str
    message: str
    progress: Progress | None = None  # None: whoever loads writes it
    seconds: int | None = None  # how long it took
    until: datetime | None = None  # when it is another one by time alone
    waits_for_operation: bool = False


def decide(facts: Facts, now: datetime) -> Decision:
    load = facts.load
    if load["metadata"].get("deletionTimestamp"):
        return Decision(release=True)  # what it owns goes with it
    if phase_of(load) in ENDED:
        return _ended(facts, now)
    verdict = judge(facts, now)
    create: tuple[Object, ...] = ()
    delete: tuple[Ref, ...] = ()
    if verdict.phase == "Executing" and facts.job is None and facts.loading is not None:
        create = facts.loading.objects
    if verdict.phase == "Failed" and facts.job is not None and not finished(facts.job):
        delete = (_job_ref(facts.job),)
    ended = verdict.phase in ENDED
    spec = facts.spec
    return Decision(
        status=status_of(facts, verdict, rfc3339(now)),
        create=create,
        own=facts.dataset.uid if facts.dataset is not None and not facts.dataset.ending else "",
        delete=delete,
        findings=_findings(facts),
        told=_told(facts, verdict) if ended or verdict.reason in NOT_SERVED else None,
        until=now + timedelta(seconds=spec.ttl) if ended and spec is not None and spec.ttl is not None else verdict.until,
    )


def judge(facts: Facts, now: datetime) -> Verdict:
    """The first thing that says what it is, most fundamental first."""
    refused = facts.refused or next((f.message for f in _findings(facts) if f.severity == "error"), "")
    if refused:
        return _failed("SpecRefused", refused)
    namespace, name = facts.dataset_key
    own = facts.load["metadata"].get("namespace", "default")
    if namespace != own:
        text = (
            f"spec.dataset.namespace {namespace} is not the load's own; leave it out, and make the load in namespace {namespace}"
        )
        return _failed("TargetDatasetNamespaceNotSame", text)
    assert facts.spec is not None
    if facts.spec.policy != ONCE:
        text = (
            f"policy {facts.spec.policy} is not served by this version: nothing is loaded; "
            f"make a DataLoad of policy {ONCE}, by a CronJob or by what would be the event"
        )
        return _waiting("PolicyNotServed", text)
    dataset = facts.dataset
    if dataset is not None and dataset.reference:
        text = f"Dataset {name} refers to {dataset.reference} and has no cache of its own; load that dataset in its own namespace"
        return _failed("DataOperationNotSupport", text)
    if facts.job is not None:
        return _with_job(facts, facts.job)
    if dataset is None:
        return _waiting(
            "TargetDatasetNotFound", f"there is no Dataset {name} in this namespace; apply it, or correct spec.dataset.name"
        )
    if dataset.ending:
        return _waiting("TargetDatasetDeleting", f"Dataset {name} is being deleted; the load begins with a new one of that name")
    if waits := _after(facts.spec.after, facts.before):
        return waits
    if dataset.unserved is not None:
        return _waiting(*dataset.unserved)
    if not dataset.bound:
        return _waiting("TargetDatasetNotReady", f"Dataset {name} is not Bound: {dataset.message or 'see its conditions'}")
    if facts.loading is None:
        text = f"the engine of Dataset {name} loads nothing ahead; delete the load: what pods read is cached all the same"
        return _failed("DataOperationNotSupport", text)
    if facts.taken:
        text = f"{facts.loading.job} exists and is not of this load; remove it if nobody needs it, or give the load another name"
        return _waiting("NameTaken", text)
    if waits := _workers(facts, dataset, now):
        return waits
    if len(facts.ahead) >= AT_ONCE:
        text = f"{AT_ONCE} loads of Dataset {name} go first: {', '.join(facts.ahead[:AT_ONCE])}"
        return _waiting("OperationsAhead", text)
    return Verdict(phase="Executing", reason="Started", message="the load's pod is being made")


def _with_job(facts: Facts, job: Object) -> Verdict:
    dataset, name = facts.dataset, facts.dataset_key[1]
    pod, result = facts.pod, facts.pod.result
    said = finished(job) if pod.ended or not pod.name else ""  # the copy of its pod may be behind: it has the last words
    if said == "Complete":
        text = "all targets are loaded"
        if result is not None:
            text = _sentence(result)
        return Verdict(
            phase="Complete",
            reason="DataLoadComplete",
            message=text,
            progress=result.progress if result else None,
            seconds=_seconds(job),
        )
    if dataset is None or dataset.ending:
        why = "was deleted" if dataset is None else "is being deleted"
        return msgspec.structs.replace(
            _failed("TargetDatasetDeleted", f"Dataset {name} {why} while the load ran; make a new load when it is there again"),
            seconds=_seconds(job),
        )
    if said == "Failed":
        reason, message = _why_failed(facts, job)
        return Verdict(
            phase="Failed",
            reason=reason,
            message=message,
            progress=result.progress if result else None,
            seconds=_seconds(job),
        )
    if pod.trouble or (facts.warned and not pod.name):
        return Verdict(phase="Executing", reason="PodNotRunning", message=pod.trouble or facts.warned)
    if not dataset.bound:
        text = f"Dataset {name} is not Bound, the load goes on when it is: {dataset.message}"
        return Verdict(phase="Executing", reason="TargetDatasetNotReady", message=text)
    return Verdict(phase="Executing", reason="Loading", message="")


def _why_failed(facts: Facts, job: Object) -> tuple[str, str]:
    result = facts.pod.result
    if result is not None and result.reason:
        return result.reason, result.message
    failed = next((c for c in _conditions(job) if c.get("type") == "Failed"), {})
    if failed.get("reason") == "DeadlineExceeded":
        return "DeadlineExceeded", "it took longer than spec.options.timeout; what came stays: make a new load, with more time"
    words = facts.pod.words.strip().splitlines()[-1:]
    said = f"{failed.get('message') or 'the load has failed'}{': ' + words[0] if words else ''}"
    return "DataOperationExecutionFailed", f"{said}; see the log of the Job's pods"


def _workers(facts: Facts, dataset: DatasetFacts, now: datetime) -> Verdict | None:
    if dataset.ready >= dataset.wanted:
        return None
    times = [at for text in (dataset.since, facts.load["metadata"].get("creationTimestamp")) if (at := moment(text))]
    end = max(times) + WORKERS if times else now
    if end <= now:
        return None
    some = f"{dataset.ready} of {dataset.wanted} workers of Dataset {facts.dataset_key[1]} are ready"
    text = f"{some}; the load begins when all are, and at {rfc3339(end)} with those that are"
    return msgspec.structs.replace(_waiting("WorkersStarting", text), until=end)


def _after(after: After | None, before: Object | None) -> Verdict | None:
    if after is None:
        return None
    if after.kind != "DataLoad":
        text = (
            f"spec.runAfter names {after}, a kind that this version does not carry out; remove runAfter, and make the load later"
        )
        return msgspec.structs.replace(_waiting("RunAfterNotServed", text), waits_for_operation=True)
    if before is None:
        text = f"spec.runAfter names {after}, which does not exist; apply it, or remove runAfter"
    elif phase_of(before) == "Complete":
        return None
    elif phase_of(before) == "Failed":
        return _failed(
            "PredecessorFailed", f"{after}, which spec.runAfter names, has failed; see its conditions, then make both anew"
        )
    else:
        text = f"{after}, which spec.runAfter names, is not Complete"
    return msgspec.structs.replace(_waiting("RunAfter", text), waits_for_operation=True)


# --- the end --------------------------------------------------------------------------------------------------------


def _ended(facts: Facts, now: datetime) -> Decision:
    """Nothing is begun again. What still runs of a load that has failed is stopped; with its time over, the load goes."""
    job, spec = facts.job, facts.spec
    delete = (_job_ref(job),) if job is not None and not finished(job) else ()
    if spec is None or spec.ttl is None or spec.policy != ONCE:
        return Decision(delete=delete)
    end = _end(facts.load) or now
    over = end + timedelta(seconds=spec.ttl)
    return Decision(delete=delete, remove=over <= now, until=None if over <= now else over)


def _end(load: Object) -> datetime | None:
    """When the condition of its end came to hold."""
    ends = (c for c in known_conditions(load) if c.type in ENDED and c.status == "True")
    return next((moment(c.last_transition_time) for c in ends), None)


# --- status ---------------------------------------------------------------------------------------------------------


def status_of(facts: Facts, verdict: Verdict, now: str) -> OperationStatus:
    load, at = facts.load, generation(facts.load)
    phase, said = verdict.phase, (verdict.reason, verdict.message)

    def say(type_: str, holds: bool, reason: str, message: str) -> Condition:
        return Condition(type=type_, status="True" if holds else "False", reason=reason, message=message, observed_generation=at)

    complete, failed, waits = phase == "Complete", phase == "Failed", phase == "Pending"
    executing = said if phase == "Executing" else ("NotComplete", "")
    wanted = [
        say("Complete", complete, *(said if complete else executing)),
        say("Failed", failed, *(said if failed else ("NotFailed", ""))),
        say(WAITING, waits, *(said if waits else ("NotWaiting", ""))),
    ]
    known = [c for c in known_conditions(load) if c.type in _TYPES]
    return OperationStatus(
        phase=phase,
        duration=UNFINISHED if phase not in ENDED else duration(verdict.seconds or 0),
        conditions=merge(known, wanted, now, "last_probe_time"),
        observed_generation=at,
        progress=msgspec.UNSET if verdict.progress is None else verdict.progress,
        waiting_for=WaitingFor(operation_complete=True) if verdict.waits_for_operation else msgspec.UNSET,
    )


def duration(seconds: int) -> str:
    """As Go writes it: 1h2m3s."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"


def phase_of(load: Object) -> str:
    status = load.get("status")
    return str(status.get("phase") or "") if isinstance(status, Mapping) else ""


def finished(job: Object) -> str:
    """ "Complete", "Failed", or "" while it runs."""
    return next((str(c["type"]) for c in _conditions(job) if c.get("type") in ENDED and c.get("status") == "True"), "")


def _conditions(job: Object) -> list[Object]:
    return (job.get("status") or {}).get("conditions") or []


def _seconds(job: Object) -> int:
    """From the Job's start to its end; 0 where it has none."""
    status: Object = job.get("status") or {}
    begun = status.get("startTime") or job["metadata"].get("creationTimestamp")
    ends = [c.get("lastTransitionTime") for c in _conditions(job) if c.get("type") in ENDED and c.get("status") == "True"]
    try:
        end = datetime.fromisoformat(str(status.get("completionTime") or ends[0]))
        return max(0, round((end - datetime.fromisoformat(str(begun))).total_seconds()))
    except (IndexError, ValueError, TypeError):
        return 0


def _sentence(result: LoadResult) -> str:
    p = result.progress
    text = f"{p.done_files} files, {p.done_bytes} bytes are loaded"
    return f"{text}; {result.notes}" if result.notes else text


def _told(facts: Facts, verdict: Verdict) -> tuple[str, str]:
    if verdict.phase == "Complete":
        return "DataOperationSucceed", verdict.message
    if verdict.phase == "Pending":
        return "DataOperationNotSupport", verdict.message
    known = ("DataOperationNotSupport", "TargetDatasetNamespaceNotSame")
    return (verdict.reason if verdict.reason in known else "DataOperationFailed"), f"{verdict.reason}: {verdict.message}"


def _findings(facts: Facts) -> tuple[Finding, ...]:
    return facts.loading.findings if facts.loading is not None else ()


def _failed(reason: str, message: str) -> Verdict:
    return Verdict(phase="Failed", reason=reason, message=message)


def _waiting(reason: str, message: str) -> Verdict:
    return Verdict(phase="Pending", reason=reason, message=message)


def _job_ref(job: Object) -> Ref:
    return Ref("Job", job["metadata"].get("namespace", ""), job["metadata"]["name"])
