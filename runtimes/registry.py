"""Which engine serves which object, and what is said of an object that none serves.

The nearest word counts: annotation `forebay.io/engine` on the runtime, then the Dataset, then the Namespace. Without one, a
runtime kind is served by its own engine and a CacheRuntime by its class's, if that engine is here; else the installation's
default says.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping

import msgspec

from forebay import runtimes
from forebay.api.conditions import Condition, merge
from forebay.api.fluid import names as fluid
from forebay.api.fluid.status import CacheRuntimeStatus, DatasetStatus, RuntimeStatus
from forebay.api.problem import did_you_mean, show
from forebay.runtimes.binding import bound_runtime, refers, surplus
from forebay.runtimes.engine import Engine, Finding, Found, Object, Observed, Plan, Subject
from forebay.runtimes.states import DELETING, generation, idle, known_conditions

OWN = "forebay"
"""The engine that `native` means."""


@functools.cache
def engines() -> Mapping[str, Engine]:
    """Every engine of this room, by name: each module or package in it that has an `ENGINE`."""
    found: dict[str, Engine] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(runtimes.__path__)):
        engine: Engine | None = getattr(importlib.import_module(f"{runtimes.__name__}.{module}"), "ENGINE", None)
        if engine is None:
            continue
        if engine.name in found:
            raise ValueError(f"two engines are called {engine.name}: rename the one in runtimes/{module}")
        found[engine.name] = engine
    return found


class Choice(msgspec.Struct, frozen=True):
    """`engine` None: nobody serves it, and why. `name` is the engine that does, or that would have to."""

    engine: Engine | None
    name: str
    reason: str = ""
    message: str = ""


def choose(subject: Subject) -> Choice:
    """The engine of a dataset. A reference is served by the engine of what it refers to."""
    if subject.source is not None:
        if refers(subject.source.subject.dataset):
            where = "/".join(subject.source.subject.key)
            return Choice(
                None, "", "SourceIsReference", f"Dataset {where} is a reference itself; name the dataset that holds the data"
            )
        return choose(subject.source.subject)
    if point := refers(subject.dataset):
        message = f"spec.mounts[0].mountPoint {show(point)} names no Dataset of this cluster; make it, or correct the mount point"
        return Choice(None, "", "SourceMissing", message)
    runtime = bound_runtime(subject)
    said, where = _said(subject, runtime)
    if said:
        name = OWN if said == fluid.NATIVE else said
        engine = engines().get(name)
        if engine is None and said in fluid.TYPES.values():
            return Choice(None, said, "EngineNotDriven", _not_driven(f"{said}, which the {where} names,", subject))
        if engine is None:
            remedy = did_you_mean(said, [fluid.NATIVE, *engines()], f"write {fluid.NATIVE}")
            return Choice(
                None,
                said,
                "EngineUnknown",
                f"annotation {fluid.ENGINE_ANNOTATION} of the {where} names engine {show(said)}; {remedy}",
            )
        if engine.adopts or runtime is None or runtime["kind"] in engine.drives:
            return Choice(engine, engine.name)
        return Choice(
            None,
            name,
            "EngineUnfit",
            f"engine {name}, which the {where} names, does not serve kind {runtime['kind']}; {_native(subject)}",
        )
    if runtime is None:
        message = f"no runtime of this name serves it: apply one, such as a CacheRuntime of class {OWN}; or {_native(subject)}"
        return Choice(None, "", "NoRuntime", message)
    return _by_kind(subject, runtime)


def plan(subject: Subject, found: Mapping[str, Found], now: str) -> Plan:
    """What should exist, of the engine that serves the dataset; what others left goes. `found`: for each engine by its name."""
    choice = choose(subject)
    retired = [e.retire(subject, found[name]) for name, e in engines().items() if e is not choice.engine and name in found]
    delete = tuple(ref for p in retired for ref in p.delete)
    unprotect = tuple(ref for p in retired for ref in p.unprotect)
    findings = tuple(f for p in retired for f in p.findings)
    if choice.engine is None:
        refused = Finding("warning", choice.reason, choice.message)
        return Plan(delete=delete, unprotect=unprotect, release=all(p.release for p in retired), findings=(refused, *findings))
    own = choice.engine.plan(subject, found[choice.engine.name], now)
    if any(not p.release for p in retired):  # two engines share the claim's name: the earlier one goes first
        return Plan(delete=delete, unprotect=unprotect, findings=(*own.findings, *findings))
    if (unknown := _class_that_nobody_made(subject)) is not None:
        return msgspec.structs.replace(own, findings=(*own.findings, unknown))
    return own


def _class_that_nobody_made(subject: Subject) -> Finding | None:
    """Of a CacheRuntime that the installation's default serves: its class may be a slip of the pen."""
    runtime = bound_runtime(subject)
    if runtime is None or runtime["kind"] != "CacheRuntime" or _said(subject, runtime)[1] != "installation":
        return None
    named = (runtime.get("spec") or {}).get("runtimeClassName", "")
    if any(c["kind"] == "CacheRuntimeClass" and c["metadata"]["name"] == named for c in subject.classes):
        return None
    text = f"spec.runtimeClassName {show(named)} is no CacheRuntimeClass of this cluster"
    remedy = (
        f"engine {OWN} serves it, as the installation's default says; apply the class, or make the CacheRuntime anew with {OWN}"
    )
    return Finding("warning", "ClassUnknown", f"{text}: {remedy}")


def observe(subject: Subject, found: Mapping[str, Found], now: str) -> Observed:
    choice = choose(subject)
    if choice.engine is not None:
        return choice.engine.observe(subject, found[choice.engine.name], now)
    status = not_served(subject, choice, now, _held(subject, found))
    runtime = bound_runtime(subject)
    told = None if runtime is None else idle(runtime, choice.name, choice.reason, choice.message, now)
    return Observed(dataset=status, runtime=told, mountable=False, findings=(Finding("warning", choice.reason, choice.message),))


def _held(subject: Subject, found: Mapping[str, Found]) -> Finding | None:
    """Who keeps what an engine made, while the Dataset is being deleted that none serves now."""
    if not subject.dataset["metadata"].get("deletionTimestamp"):
        return None
    retired = (e.retire(subject, found[name]) for name, e in engines().items() if name in found)
    return next((f for p in retired for f in p.findings), None)


def leave(subject: Subject, found: Mapping[str, Found]) -> Plan:
    """What goes when forebay leaves the cluster: whatever any engine made. The Dataset stays."""
    retired = [e.retire(subject, found[name]) for name, e in engines().items() if name in found]
    return Plan(
        delete=tuple(ref for p in retired for ref in p.delete),
        unprotect=tuple(ref for p in retired for ref in p.unprotect),
        release=all(p.release for p in retired),
        findings=tuple(f for p in retired for f in p.findings),
    )


def uninstalled(subject: Subject, now: str) -> list[tuple[Object, DatasetStatus | RuntimeStatus | CacheRuntimeStatus]]:
    """The users' objects of a dataset that was left, the runtimes first, and what is said of each."""
    text = "forebay was uninstalled, and nothing of it is left here; install it again, or delete the Dataset and its runtime"
    told = [(r, idle(r, "", "Uninstalled", text, now)) for r in subject.runtimes]
    return [*told, (subject.dataset, not_served(subject, Choice(None, "", "Uninstalled", text), now))]


def not_served(subject: Subject, choice: Choice, now: str, held: Finding | None = None) -> DatasetStatus:
    """A Dataset that no engine serves: NotBound, with the engine that it waits for and the remedy; and who holds its end up."""
    at = generation(subject.dataset)
    wanted = [
        Condition(type=type_, status="False", reason=choice.reason, message=choice.message, observed_generation=at)
        for type_ in ("RuntimeScheduled", "Ready")
    ]
    if held is not None:
        wanted.append(Condition(type=DELETING, status="True", reason=held.reason, message=held.message, observed_generation=at))
    types = {c.type for c in wanted}
    known = [c for c in known_conditions(subject.dataset) if c.type in types]
    return DatasetStatus(
        conditions=merge(known, wanted, now),
        phase="NotBound",
        observed_generation=at,
        engine=choice.name,
    )


def without_dataset(runtime: Object, now: str) -> RuntimeStatus | CacheRuntimeStatus:
    """A runtime whose Dataset does not exist (yet)."""
    name = runtime["metadata"]["name"]
    return idle(
        runtime, "", "NoDataset", f"there is no Dataset {name} in this namespace; apply it, or rename one of the two", now
    )


def surplus_statuses(subject: Subject, now: str) -> tuple[tuple[Object, RuntimeStatus | CacheRuntimeStatus], ...]:
    """Runtimes of a dataset that another one serves, and what is said of each."""
    bound = bound_runtime(subject)
    if bound is None:
        return ()
    text = f"the Dataset is served by {bound['kind']} {bound['metadata']['name']}; delete one of the two runtimes"
    return tuple((r, idle(r, "", "SecondRuntime", text, now)) for r in surplus(subject))


def _said(subject: Subject, runtime: Object | None) -> tuple[str, str]:
    """What annotations or the installation say of the engine, and where: ("", "") for nothing."""
    places = ((runtime, "runtime"), (subject.dataset, "Dataset"), (subject.namespace, "Namespace"))
    for obj, where in places:
        if said := ((obj or {}).get("metadata", {}).get("annotations") or {}).get(fluid.ENGINE_ANNOTATION):
            return said, where
    if runtime is not None and _by_kind(subject, runtime).engine is not None:
        return "", ""  # a default is for what has no engine here
    return subject.installation.default_engine, "installation"


def _by_kind(subject: Subject, runtime: Object) -> Choice:
    kind = runtime["kind"]
    named = (runtime.get("spec") or {}).get("runtimeClassName", "") if kind == "CacheRuntime" else ""
    for engine in engines().values():
        if named in engine.classes if kind == "CacheRuntime" else kind in engine.drives:
            return Choice(engine, engine.name)
    name = named or fluid.TYPES[kind]
    if kind == "CacheRuntime" and not any(
        c["kind"] == "CacheRuntimeClass" and c["metadata"]["name"] == named for c in subject.classes
    ):
        remedy = f"apply it, or make the CacheRuntime anew with {OWN}"
        message = f"spec.runtimeClassName {show(named)} is no CacheRuntimeClass of this cluster; {remedy}"
        return Choice(None, name, "ClassUnknown", message)
    return Choice(None, name, "EngineNotDriven", _not_driven(f"{name} of kind {kind}", subject))


def _not_driven(engine: str, subject: Subject) -> str:
    return f"engine {engine} is not driven by this version of forebay; {_native(subject)}"


def _native(subject: Subject) -> str:
    namespace, name = subject.key
    command = f"kubectl annotate dataset {name} -n {namespace} {fluid.ENGINE_ANNOTATION}={fluid.NATIVE}"
    return f"to have it served by engine {OWN}: {command}"
