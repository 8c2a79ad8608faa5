"""Worlds for the engines' tests, and the golden files: what is planned for every manifest, and what is said of it.

    .venv/bin/python -P tests/unit/runtimes/runtime_worlds.py            # writes the golden files anew and prints what changed

Read the diff before you commit it: it is what users' clusters would see.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from forebay.api import podconfig as config
from forebay.api.fluid import names as fluidnames
from forebay.runtimes import registry
from forebay.runtimes.engine import Found, Installation, Observed, Plan, Ref, Source, Subject, WorkerFacts

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
FOLDERS = (HERE.parents[1] / "data" / "fluid-manifests", HERE / "manifests")
NOW = "2026-11-27T05:00:00Z"
NATIVE = Installation(default_engine="native")
SECRET = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
NOTHING = Found(fresh_secret=SECRET)

Object = dict[str, Any]

DATASET = """
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: d, namespace: ns, generation: 4}
spec: {mounts: [{mountPoint: "s3://bucket/", name: a, options: {anonymous: "true"}}, {mountPoint: "https://h/x/", name: b}]}
"""
CACHE = """
---
apiVersion: data.fluid.io/v1alpha1
kind: CacheRuntime
metadata: {name: d, namespace: ns, generation: 2}
spec: {runtimeClassName: forebay, worker: {replicas: 3, tieredStore: {levels: [{emptyDir: {quota: 1Gi}}]}}}
"""
CLASSIC = """
---
apiVersion: data.fluid.io/v1alpha1
kind: AlluxioRuntime
metadata: {name: d, namespace: ns, generation: 2, annotations: {forebay.io/engine: native}}
spec: {replicas: 3, tieredstore: {levels: [{mediumtype: SSD, path: /c, quota: 1Gi}]}}
"""
SET, CLAIM = Ref("StatefulSet", "ns", "d-worker"), Ref("PersistentVolumeClaim", "ns", "d")
VOLUME = Ref("PersistentVolume", "", "ns-d")
NO_ROOM = "0/4 nodes are available: 4 Insufficient memory."


def documents(text: str) -> list[Object]:
    """Objects as the API server would hand them out: with namespace, uid, generation and a time."""
    found = [doc for doc in yaml.safe_load_all(text) if doc]
    for i, doc in enumerate(found):
        meta = doc["metadata"]
        if doc["kind"] not in ("Namespace", "CacheRuntimeClass", "ThinRuntimeProfile"):
            meta.setdefault("namespace", "default")
        meta.setdefault("uid", f"00000000-0000-4000-8000-{i:012x}")
        meta.setdefault("generation", 1)
        meta.setdefault("creationTimestamp", "2026-11-27T04:59:30Z")
    return found


def subjects(objects: list[Object], installation: Installation = NATIVE) -> list[Subject]:
    """One for each Dataset, in order."""

    def subject(dataset: Object, *, deep: bool = True) -> Subject:
        meta = dataset["metadata"]
        source = None
        point = ((dataset.get("spec") or {}).get("mounts") or [{}])[0].get("mountPoint", "")
        if deep and point.startswith("dataset://"):
            namespace, name = point.removeprefix("dataset://").split("/")[:2]
            held = [o for o in named("Dataset", namespace) if o["metadata"]["name"] == name]
            if held:
                grants = tuple(named("DatasetGrant", namespace))
                source = Source(subject=subject(held[0], deep=False), grants=grants, bound=True)
        spaces = [o for o in objects if o["kind"] == "Namespace" and o["metadata"]["name"] == meta["namespace"]]
        return Subject(
            dataset=dataset,
            runtimes=tuple(o for o in objects if o["kind"] in fluidnames.TYPES and same(o["metadata"], meta)),
            namespace=spaces[0] if spaces else {"metadata": {"name": meta["namespace"]}},
            classes=tuple(o for o in objects if o["kind"] in ("CacheRuntimeClass", "ThinRuntimeProfile")),
            installation=installation,
            source=source,
        )

    def named(kind: str, namespace: str) -> list[Object]:
        return [o for o in objects if o["kind"] == kind and o["metadata"].get("namespace") == namespace]

    def same(a: Object, b: Object) -> bool:
        return (a["namespace"], a["name"]) == (b["namespace"], b["name"])

    return [subject(o) for o in objects if o["kind"] == "Dataset"]


def one(text: str, installation: Installation = NATIVE) -> Subject:
    """The only Dataset of a text."""
    (subject,) = subjects(documents(text), installation)
    return subject


def plan(subject: Subject, found: Found = NOTHING) -> Plan:
    return registry.plan(subject, {"forebay": found}, NOW)


def observe(subject: Subject, found: Found = NOTHING, now: str = NOW) -> Observed:
    return registry.observe(subject, {"forebay": found}, now)


def worker(name: str, node: str = "node-a", *, ready: bool = True, **status: Any) -> Object:
    """A worker pod."""
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": {"name": name},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Running" if node else "Pending", "conditions": conditions, **status},
    }


def unschedulable(name: str, said: str = NO_ROOM) -> dict[str, Any]:
    pod = worker(name, "", ready=False)
    pod["status"]["conditions"].append({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said})
    return pod


def ending(obj: Object) -> Object:
    """The same, being deleted."""
    return {**obj, "metadata": {**obj["metadata"], "deletionTimestamp": NOW}}


def made(planned: Plan) -> dict[Ref, Object]:
    """The objects of a plan once they are applied: claim and volume bound to each other."""
    found: dict[Ref, Object] = {}
    for obj in (*planned.create, *planned.apply):
        meta = obj["metadata"]
        if obj["kind"] in ("Dataset", *fluidnames.TYPES):
            continue
        obj = json.loads(json.dumps(obj))
        if obj["kind"] in ("PersistentVolume", "PersistentVolumeClaim"):
            obj["status"] = {"phase": "Bound"}
        if obj["kind"] == "PersistentVolumeClaim":
            obj["metadata"]["uid"] = "claim-uid"
        if obj["kind"] == "PersistentVolume":
            obj["spec"]["claimRef"]["uid"] = "claim-uid"
        found[Ref(obj["kind"], meta.get("namespace", ""), meta["name"])] = obj
    return found


def stateful_set(planned: Plan) -> Object:
    (found,) = [o for o in planned.apply if o["kind"] == "StatefulSet"]
    return found


def settled(subject: Subject, **more: Any) -> Found:
    """All that is planned exists and every worker is ready and reports."""
    planned = plan(subject)
    objects = made(planned)
    pods: list[Object] = []
    workers: dict[str, WorkerFacts] = {}
    sets = [o for o in objects.values() if o["kind"] == "StatefulSet"]
    if sets:
        revision = next(o for o in planned.apply if o["kind"] == "ConfigMap")["metadata"]["annotations"][
            "forebay.io/config-revision"
        ]
        for i in range(sets[0]["spec"]["replicas"]):
            name = f"{sets[0]['metadata']['name']}-{i}"
            pods.append(worker(name, f"node-{i}"))
            workers[name] = WorkerFacts(
                owned_bytes=1 << 30, capacity_bytes=4 << 30, total_bytes=5 << 30, files=7, listed=True, local_bytes=3,
                store_bytes=1, revision=revision,
            )  # fmt: skip
    nodes = {p["spec"]["nodeName"]: True for p in pods}
    return Found(**{**{"objects": objects, "pods": tuple(pods), "nodes": nodes, "workers": workers}, **more})


# --- golden files -----------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _text)


def dump(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def golden() -> Iterator[tuple[Path, str]]:
    """File and text of every golden file."""
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.yaml")):
            for subject in subjects(documents(path.read_text())):
                yield GOLDEN / f"{path.stem}.{subject.key[1][:24]}.yaml", story(subject, path.name)


def story(subject: Subject, file: str) -> str:
    """What is planned for a dataset of which nothing exists yet, what is said of it then, and once all of it is ready."""
    planned = plan(subject)
    parts = [
        f"# {file}: Dataset {'/'.join(subject.key)}, with our engine as the installation's default.\n",
        dump({"findings": [msgspec.to_builtins(f) for f in planned.findings]}),
        dump({"delete": [str(r) for r in planned.delete], "drain": [d.pod for d in planned.drain]}),
    ]
    parts += ["# created once\n" + dump(o) for o in planned.create]
    parts += [dump(o) for o in planned.apply]
    parts.append("# status while nothing exists\n" + dump(statuses(observe(subject))))
    if planned.apply:
        parts.append("# status when all of it is ready\n" + dump(statuses(observe(subject, settled(subject)))))
    return "---\n".join(parts)


def statuses(observed: Observed) -> Object:
    found: Object = {"mountable": observed.mountable, "dataset": json.loads(msgspec.json.encode(observed.dataset))}
    if observed.runtime is not None:
        found["runtime"] = json.loads(msgspec.json.encode(observed.runtime))
    return found


def main() -> int:
    wanted = dict(golden())
    GOLDEN.mkdir(exist_ok=True)
    for path in sorted({*wanted, *GOLDEN.glob("*.yaml")}):
        old, new = (path.read_text() if path.exists() else ""), wanted.get(path, "")
        sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), str(path.name), str(path.name)))
        if path in wanted:
            path.write_text(new)
        else:
            path.unlink()
    return 0


def config_of(planned: Plan) -> config.Config:
    (found,) = [o for o in planned.apply if o["kind"] == "ConfigMap"]
    return config.decode(found["data"][config.FILE].encode())


if __name__ == "__main__":
    sys.exit(main())
