"""What a status is made from, and the sentences that the Dataset's and the runtime's share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from forebay.api import podconfig as config
from forebay.api.conditions import Condition, ConditionStatus, merge
from forebay.api.fluid.status import Measured
from forebay.api.problem import strip_credentials
from forebay.runtimes.engine import Finding, Found, Object, ReaderFacts, Ref, Subject, WorkerFacts
from forebay.runtimes.forebay.names import Names, names_of
from forebay.runtimes.forebay.planning import Wanted, read
from forebay.runtimes.forebay.pods import SAID, Pod, read_pods, worst
from forebay.runtimes.forebay.settings import Settings
from forebay.runtimes.states import generation, known_conditions

NAME = "forebay"


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the status is made from."""

    subject: Subject
    names: Names
    found: Found
    wanted: Wanted
    pods: tuple[Pod, ...]
    desired: int
    current: int | None  # replicas of the StatefulSet, None without one

    @property
    def ready(self) -> tuple[Pod, ...]:
        return tuple(p for p in self.pods if p.serves)

    @property
    def settings(self) -> Settings | None:
        return self.wanted.job.settings if self.wanted.job else None

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.wanted.findings if f.severity == "error")

    @property
    def behind(self) -> tuple[Pod, ...]:
        """Ready workers that say they serve another configuration than is wanted."""
        if self.wanted.job is None:
            return ()
        revision = config.revision(self.wanted.job.config)
        return tuple(p for p in self.ready if self.facts(p).revision not in ("", revision))

    def facts(self, pod: Pod) -> WorkerFacts:
        return self.found.workers.get(pod.name, WorkerFacts())


def view(subject: Subject, found: Found) -> View:
    names, wanted = names_of(subject), read(subject)
    existing = found.objects.get(Ref("StatefulSet", names.namespace, names.workers))
    current = None if existing is None else int((existing.get("spec") or {}).get("replicas", 1))
    desired = wanted.job.settings.replicas if wanted.job else (current or 0)
    return View(
        subject=subject,
        names=names,
        found=found,
        wanted=wanted,
        pods=read_pods(found.pods, found.nodes, found.warned),
        desired=desired,
        current=current,
    )


def why_none(seen: View) -> tuple[str, str]:
    """Why no worker is ready."""
    bad = worst(seen.pods)
    if bad is not None:
        return bad.state if bad.state != "Starting" else "WorkersStarting", f"no worker is ready; {bad.name}: {bad.why}"
    if said := refused_set(seen):
        if "exceeded quota" in said:
            return (
                "QuotaExceeded",
                f"the namespace's ResourceQuota lets no worker start: {said}; raise it, or lower spec.worker.resources",
            )
        if "violates PodSecurity" in said:
            return "PodRefused", f"the namespace lets no worker start: {said}"
        return "PodRefused", f"no worker can be made: {said}"
    return "WorkersStarting", "no worker pod exists yet"


def refused_set(seen: View) -> str:
    return event(seen.found, "StatefulSet", seen.names.workers, "FailedCreate")


def event(found: Found, kind: str, name: str, reason: str = "") -> str:
    said = (w.message for w in found.warned if w.about.kind == kind and w.about.name == name and reason in ("", w.reason))
    return next(said, "")[:SAID]


def sentences(findings: Iterable[Finding]) -> str:
    texts = [f.message for f in findings]
    return " | ".join(texts[:3]) + (f" | and {len(texts) - 3} more" if len(texts) > 3 else "")


def say(type_: str, holds: bool, reason: str, message: str) -> Condition:
    status: ConditionStatus = "True" if holds else "False"
    return Condition(type=type_, status=status, reason=reason, message=message)


def merged(obj: Object, wanted: list[Condition], now: str, *, probe: bool = False) -> tuple[Condition, ...]:
    """With the times of those that say nothing new. Conditions of other writers are theirs, and not repeated."""
    at, types = generation(obj), {c.type for c in wanted}
    known = [c for c in known_conditions(obj) if c.type in types]
    stamped = [msgspec.structs.replace(c, observed_generation=at) for c in wanted]
    return merge(known, stamped, now, "last_probe_time" if probe else "last_update_time")


def trouble(seen: View) -> Finding | None:
    """What keeps ready workers from reading a store, by what the first of them says. The dataset serves what it has."""
    found = [(p, said) for p in seen.ready if (said := seen.facts(p).trouble)]
    if not found:
        return None
    pod, said = found[0]
    text = f"{len(found)} of {len(seen.ready)} workers get nothing from a store; {pod.name}: {strip_credentials(said)}"
    return Finding("warning", "StoreFails", f"{text}; what is cached is served, the rest is an I/O error")


def full(seen: View) -> Finding | None:
    """What keeps ready workers from caching anything, by what the first of them says. Readers get their bytes all the same."""
    found = [(p, said) for p in seen.ready if (said := seen.facts(p).full)]
    if not found:
        return None
    pod, said = found[0]
    text = f"{len(found)} of {len(seen.ready)} workers cache nothing; {pod.name} on {pod.node}: {said}"
    return Finding("warning", "DiskFull", f"{text}; reads go to the stores each time")


def measured(seen: View) -> Measured | None:
    """Sums over the workers that report. The listing is the one of who knows most of it."""
    said = (seen.found.workers.get(p.name) for p in seen.pods)
    facts = [f for f in said if f is not None and not f.silent]
    if not facts:
        return None
    best = max(facts, key=lambda f: (f.listed, f.total_bytes, f.files))
    owned = sum(f.owned_bytes for f in facts)
    local, remote, store = _reads(facts, list(seen.found.readers.values()))
    return Measured(
        total_bytes=best.total_bytes,
        files=best.files,
        listed=best.listed,
        cached_bytes=min(owned, best.total_bytes) if best.listed else owned,
        capacity_bytes=sum(f.capacity_bytes for f in facts),
        local_bytes=local,
        remote_bytes=remote,
        store_bytes=store,
    )


def _reads(workers: Sequence[WorkerFacts], readers: Sequence[ReaderFacts]) -> tuple[int, int, int]:
    """Bytes of reads by where they lay: in the node's own cache, in a worker's, in the store.

    A node knows what it had to get, and not whether the worker had it. Of that, what workers fetched without being told to by a
    load is the stores' part; a byte that two nodes get is fetched once, and is the second one's hit.
    """
    local, remote = sum(f.local_bytes for f in workers), sum(f.remote_bytes for f in workers)
    fetched = max(sum(f.store_bytes for f in workers) - sum(f.loaded_bytes for f in workers), 0)
    if not readers:
        return local, remote, fetched
    missed = sum(r.missed_bytes for r in readers)
    store = min(fetched, missed)
    return local + sum(r.local_bytes for r in readers), remote + missed - store, store
