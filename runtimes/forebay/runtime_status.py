"""The status of a runtime that our engine serves: of the six classic kinds, and of a CacheRuntime."""

from __future__ import annotations

from datetime import datetime

import msgspec

from forebay.api.conditions import Condition
from forebay.api.fluid.status import CacheRuntimeStatus, ComponentStatus, RuntimePhase, RuntimeStatus, cache_states, phase_of
from forebay.runtimes.engine import Object
from forebay.runtimes.forebay.names import Names
from forebay.runtimes.forebay.pods import worst
from forebay.runtimes.forebay.settings import Settings
from forebay.runtimes.forebay.view import NAME, View, measured, merged, refused_set, say, sentences, why_none
from forebay.runtimes.states import generation, written_mounts


def runtime_status(seen: View, runtime: Object, now: str) -> RuntimeStatus | CacheRuntimeStatus:
    return _cache_runtime(seen, runtime, now) if runtime["kind"] == "CacheRuntime" else _classic_runtime(seen, runtime, now)


def _worker_reason(seen: View) -> tuple[str, str]:
    """Why not all workers are ready: (reason, message), empty when they are."""
    if not seen.ready and seen.errors:
        return seen.errors[0].reason, sentences(seen.errors)
    if len(seen.ready) >= seen.desired:
        return "", ""
    if not seen.ready:
        return (
            why_none(seen) if seen.current is not None else ("WorkersMissing", refused_set(seen) or "the workers are being made")
        )
    bad = worst(seen.pods)
    if bad is None:
        said = refused_set(seen)
        reason = "QuotaExceeded" if "exceeded quota" in said else "PodRefused" if said else "WorkersStarting"
        return reason, f"{len(seen.ready)} of {seen.desired} workers are ready" + (f": {said}" if said else "")
    return (
        bad.state if bad.state != "Starting" else "WorkersStarting",
        f"{len(seen.ready)} of {seen.desired} are ready; {bad.name}: {bad.why}",
    )


def _runtime_conditions(seen: View, runtime: Object, now: str) -> tuple[Condition, ...]:
    reason, message = _worker_reason(seen)
    enough = len(seen.ready) >= seen.desired
    leaving = seen.current is not None and seen.current > seen.desired
    mounted, answering = len(seen.found.mounted), sum(seen.found.mounted.values())
    draining = f"{seen.current} workers are to become {seen.desired}; the highest hands out what it owns before it goes"
    wanted = [
        say("MasterInitialized", True, "NoMaster", "engine forebay has no master"),
        say("MasterReady", True, "NoMaster", "engine forebay has no master"),
        say("WorkersInitialized", seen.current is not None, "WorkersMade" if seen.current is not None else "WorkersMissing", ""),
        say("WorkersReady", enough, reason or "WorkersReady", message),
        say("WorkersScaledIn", not leaving, "Draining" if leaving else "InStep", draining if leaving else ""),
        say("FusesInitialized", True, "MountedOnDemand", "a node mounts the dataset when its first pod asks for it"),
        say(
            "FusesReady",
            answering >= mounted,
            "FusesReady" if answering >= mounted else "MountNotAnswering",
            "" if answering >= mounted else f"on {', '.join(sorted(n for n, up in seen.found.mounted.items() if not up)[:5])}",
        ),
    ]
    return merged(runtime, wanted, now, probe=True)


def _classic_runtime(seen: View, runtime: Object, now: str) -> RuntimeStatus:
    reason, message = _worker_reason(seen)
    facts, ready = measured(seen), len(seen.ready)
    mounted, answering = len(seen.found.mounted), sum(seen.found.mounted.values())
    return RuntimeStatus(
        value_file="",
        master_phase="Ready",
        worker_phase=_phase(seen),
        fuse_phase=phase_of(mounted, answering),
        desired_master_number_scheduled=0,
        current_master_number_scheduled=0,
        master_number_ready=0,
        desired_worker_number_scheduled=seen.desired,
        current_worker_number_scheduled=sum(bool(p.node) for p in seen.pods),
        worker_number_ready=ready,
        desired_fuse_number_scheduled=mounted,
        current_fuse_number_scheduled=mounted,
        fuse_number_ready=answering,
        worker_reason=f"{reason}: {message}" if reason else "",
        worker_number_available=ready,
        worker_number_unavailable=max(0, seen.desired - ready),
        fuse_number_available=answering,
        fuse_number_unavailable=mounted - answering,
        observed_generation=generation(runtime),
        engine=NAME,
        setup_duration=_setup(seen, runtime, now),
        conditions=_runtime_conditions(seen, runtime, now),
        cache_states=cache_states(facts) if facts is not None else {},
        measured=facts if facts is not None else msgspec.UNSET,
        selector=_selector(seen.names),
        mounts=written_mounts(seen.subject.dataset) if ready and not seen.behind else (),
        cache_affinity=cache_affinity(seen.settings),
    )


def _cache_runtime(seen: View, runtime: Object, now: str) -> CacheRuntimeStatus:
    reason, message = _worker_reason(seen)
    facts, ready = measured(seen), len(seen.ready)
    mounted, answering = len(seen.found.mounted), sum(seen.found.mounted.values())
    return CacheRuntimeStatus(
        phase=_phase(seen),
        observed_generation=generation(runtime),
        engine=NAME,
        setup_duration=_setup(seen, runtime, now),
        conditions=_runtime_conditions(seen, runtime, now),
        selector=_selector(seen.names),
        cache_affinity=cache_affinity(seen.settings),
        measured=facts if facts is not None else msgspec.UNSET,
        master=ComponentStatus(phase="Ready", reason="NoMaster"),
        worker=ComponentStatus(
            phase=_phase(seen),
            reason=reason,
            message=message,
            desired_replicas=seen.desired,
            current_replicas=sum(bool(p.node) for p in seen.pods),
            ready_replicas=ready,
            available_replicas=ready,
            unavailable_replicas=max(0, seen.desired - ready),
        ),
        client=ComponentStatus(
            phase=phase_of(mounted, answering),
            desired_replicas=mounted,
            current_replicas=mounted,
            ready_replicas=answering,
            available_replicas=answering,
            unavailable_replicas=mounted - answering,
        ),
    )


def _phase(seen: View) -> RuntimePhase:
    """Fluid's rule, but that a spec which cannot be carried out is not ready."""
    return "NotReady" if seen.errors and not seen.ready else phase_of(seen.desired, len(seen.ready))


def _selector(names: Names) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted(names.selector.items()))


def _setup(seen: View, runtime: Object, now: str) -> str:
    """From the runtime's making to its first ready worker; once known it stays, for it happened."""
    if known := (runtime.get("status") or {}).get("setupDuration"):
        return str(known)
    made = runtime["metadata"].get("creationTimestamp")
    if not made or not seen.ready:
        return ""
    return f"{max(0, round((datetime.fromisoformat(now) - datetime.fromisoformat(made)).total_seconds()))}s"


def cache_affinity(settings: Settings | None) -> Object:
    """Where workers may run, as one NodeAffinity: the runtime's nodeSelector and the Dataset's terms, both."""
    if settings is None or not (settings.node_selector or settings.affinity):
        return {}
    selected = [{"key": k, "operator": "In", "values": [v]} for k, v in sorted(settings.node_selector.items())]
    terms: list[Object] = settings.affinity.get("nodeSelectorTerms") or [{}]
    merged = [{**term, "matchExpressions": [*(term.get("matchExpressions") or []), *selected]} for term in terms]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": merged}}
