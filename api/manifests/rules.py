"""Rules inside one object that a schema cannot say. Sources: Fluid's reconcilers and webhooks, as the reference lists them."""

from __future__ import annotations

import re

from forebay.api.manifests import schemes
from forebay.api.problem import show
from forebay.api.schema import INT, Walk
from forebay.api.yamldoc import Node

_CRON = re.compile(
    r"(?:(?:CRON_)?TZ=\S+ )?(?:@(?:yearly|annually|monthly|weekly|daily|midnight|hourly|every \S+)|\S+(?: +\S+){4})"
)
_SCRAPE = ("MountPod", "Sidecar", "All", "None")


def check(kind: str, namespace: str, node: Node, walk: Walk) -> None:
    """Add what is wrong with one object of a Fluid kind beyond its schema."""
    spec = node.at("spec") or Node({}, node.file, node.line)
    _some_workers(spec, walk)
    match kind:
        case "Dataset":
            _access_modes(spec, walk)
        case "JindoRuntime":
            _scrape_target(spec, walk)
        case "ThinRuntime" | "ThinRuntimeProfile":
            _lifecycle(spec, walk)
        case "CacheRuntimeClass":
            _cache_class(node, walk)
        case "DataLoad":
            _operation(spec, namespace, walk)
            _own_namespace(spec.at("dataset"), "spec.dataset", namespace, walk)
            if spec.at("dataset") is None:
                walk.add("error", spec, "spec.dataset", "", "is missing", "name the dataset to load: {name: ...}")
        case "DataMigrate":
            _operation(spec, namespace, walk)
            _migrate(spec, namespace, walk)
        case "DataBackup":
            _backup(spec, walk)
        case "DataProcess":
            _operation(spec, namespace, walk)
            _own_namespace(spec.at("dataset"), "spec.dataset", namespace, walk)
            _process(spec, walk)


def _some_workers(spec: Node, walk: Walk) -> None:
    """On one machine 0 workers are a slip. A cluster takes them: `kubectl scale --replicas=0` passes admission."""
    node = spec.at("replicas")
    if node is not None and node.value == 0 and not isinstance(node.value, bool):
        walk.add("error", node, "spec.replicas", "0", "is out of range", f"write 1 to {INT.max}")


def _access_modes(spec: Node, walk: Walk) -> None:
    modes = spec.at("accessModes")
    for i, mode in enumerate(modes.items() if modes else []):
        if mode.value in ("ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"):
            field, remedy = f"spec.accessModes[{i}]", "read it meanwhile, and write to the store directly"
            walk.add(
                "warning", mode, field, show(mode.value), "asks for writing, which is not served yet: mounted read-only", remedy
            )
    if spec.at("mounts") is None:
        walk.add("warning", spec, "spec.mounts", "", "is missing", "add a mount: without one there is nothing to serve")


def _scrape_target(spec: Node, walk: Walk) -> None:
    node = spec.at("fuse", "metrics", "scrapeTarget")
    if node is None or not isinstance(node.value, str):
        return
    if any(part.strip() not in _SCRAPE for part in node.value.split(",")):
        field, known = "spec.fuse.metrics.scrapeTarget", ", ".join(_SCRAPE)
        walk.add("error", node, field, show(node.value), "names an unknown target", f"write a comma list of {known}")


def _lifecycle(spec: Node, walk: Walk) -> None:
    node = spec.at("fuse", "lifecycle", "postStart")
    if node is not None:
        walk.add(
            "error", node, "spec.fuse.lifecycle.postStart", "", "is refused by Fluid", "start it from the container's command"
        )


def _cache_class(node: Node, walk: Walk) -> None:
    defined = {m.string("name") for m in _items(node.at("extraResources", "configMaps"))}
    found = False
    for component in ("master", "worker", "client"):
        part = node.at("topology", component)
        if part is None:
            continue
        found = True
        field = f"topology.{component}"
        if not _items(part.at("template", "spec", "containers")):
            remedy = "add the container that runs the engine"
            walk.add("error", part, f"{field}.template.spec.containers", "", "is empty", remedy)
        for i, used in enumerate(_items(part.at("dependencies", "extraResources", "configMaps"))):
            name = used.string("name")
            if name and name not in defined:
                where = f"{field}.dependencies.extraResources.configMaps[{i}].name"
                walk.add("error", used, where, show(name), "is not defined in extraResources.configMaps", "define it there")
    if not found:
        walk.add("error", node, "topology", "", "has no component", "add at least one of master, worker, client")


def _own_namespace(dataset: Node | None, field: str, namespace: str, walk: Walk) -> None:
    other = dataset.at("namespace") if dataset is not None else None
    if other is not None and isinstance(other.value, str) and other.value not in ("", namespace):
        message = f"is not the operation's own namespace ({show(namespace)})"
        walk.add(
            "error", other, f"{field}.namespace", show(other.value), message, f"write {show(namespace)}, or move the operation"
        )


def _operation(spec: Node, namespace: str, walk: Walk) -> None:
    policy, schedule = spec.string("policy", "Once"), spec.at("schedule")
    if policy == "Cron" and (schedule is None or not schedule.value):
        remedy = 'add one, such as "15 2 * * *"'
        walk.add("error", spec.at("policy") or spec, "spec.schedule", "", "is missing, which policy Cron needs", remedy)
    if (
        schedule is not None
        and isinstance(schedule.value, str)
        and schedule.value
        and not _CRON.fullmatch(schedule.value.strip())
    ):
        remedy = 'write five fields, such as "15 2 * * *"'
        walk.add("error", schedule, "spec.schedule", show(schedule.value), "is no cron schedule", remedy)
    if policy != "Cron" and schedule is not None:
        walk.add(
            "warning",
            schedule,
            "spec.schedule",
            show(schedule.value),
            f"has no effect with policy {show(policy)}",
            "write policy: Cron",
        )
    if policy == "OnEvent":
        walk.add("warning", spec.at("policy") or spec, "spec.policy", '"OnEvent"', "does nothing in Fluid", "write Once or Cron")
    ttl = spec.at("ttlSecondsAfterFinished")
    if ttl is not None and policy != "Once":
        walk.add("warning", ttl, "spec.ttlSecondsAfterFinished", "", f"has no effect with policy {show(policy)}", "remove it")
    before = spec.at("runAfter")
    if before is not None and before.string("namespace") not in ("", namespace):
        walk.add(
            "warning", before, "spec.runAfter.namespace", show(before.string("namespace")), "is another namespace", "use your own"
        )


def _migrate(spec: Node, namespace: str, walk: Walk) -> None:
    datasets = 0
    for end in ("from", "to"):
        part = spec.at(end)
        if part is None:
            continue  # reported by the schema
        named = [k for k in ("dataset", "externalStorage") if part.at(k) is not None]
        if len(named) != 1:
            message = "names a dataset and an external storage" if named else "names neither a dataset nor an external storage"
            walk.add("error", part, f"spec.{end}", "", message, "give exactly one of dataset and externalStorage")
        if part.at("dataset") is not None:
            datasets += 1
            _own_namespace(part.at("dataset"), f"spec.{end}.dataset", namespace, walk)
        uri = part.at("externalStorage", "uri")
        if uri is not None and isinstance(uri.value, str):
            scheme, _ = schemes.split(uri.value)
            if scheme not in schemes.KNOWN:
                remedy = "write one such as s3://bucket/prefix/ or pvc://claim/path"
                walk.add("error", uri, f"spec.{end}.externalStorage.uri", show(uri.value), "has an unknown scheme", remedy)
    if spec.at("from") is not None and spec.at("to") is not None and not datasets:
        walk.add("error", spec, "spec", "", "migrates between two external storages", "make one of from and to a dataset")
    parallel = spec.at("parallelism")
    many = parallel is not None and isinstance(parallel.value, int) and parallel.value > 1
    options = spec.at("parallelOptions")
    if many and not (options is not None and options.string("sshSecretName")):
        remedy = "add the Secret with the key pair that the workers share"
        walk.add(
            "error", parallel or spec, "spec.parallelOptions.sshSecretName", "", "is missing, which parallelism needs", remedy
        )
    block = spec.at("block")
    if block is not None:
        walk.add("warning", block, "spec.block", "", "is read by nobody, not even by Fluid", "remove it")


def _backup(spec: Node, walk: Walk) -> None:
    if not spec.string("dataset"):
        walk.add("error", spec, "spec.dataset", "", "is missing", "name the dataset to back up")
    path = spec.at("backupPath")
    if path is None:
        walk.add("error", spec, "spec.backupPath", "", "is missing", "add one, such as pvc://claim/path")
    elif isinstance(path.value, str) and schemes.split(path.value)[0] not in ("pvc", "local"):
        walk.add(
            "error",
            path,
            "spec.backupPath",
            show(path.value),
            "has an unsupported scheme",
            "write pvc://claim/path or local:///path",
        )


def _process(spec: Node, walk: Walk) -> None:
    processor = spec.at("processor")
    if processor is None:
        return  # reported by the schema
    given = [k for k in ("job", "script") if processor.at(k) is not None]
    if len(given) != 1:
        message = "has a job and a script" if given else "has neither a job nor a script"
        walk.add("error", processor, "spec.processor", "", message, "give exactly one of job and script")
    mount_path = spec.at("dataset", "mountPath")
    if mount_path is None or not isinstance(mount_path.value, str):
        return
    if not mount_path.value.startswith("/"):
        walk.add(
            "error", mount_path, "spec.dataset.mountPath", show(mount_path.value), "is not absolute", "write one such as /data"
        )
    pod = processor.at("job", "podSpec")
    containers = [*_items(pod.at("containers")), *_items(pod.at("initContainers"))] if pod is not None else []
    script = processor.at("script")
    for container in [*containers, *([script] if script is not None else [])]:
        for mount in _items(container.at("volumeMounts")):
            if mount.string("mountPath").rstrip("/") == mount_path.value.rstrip("/"):
                message = "is a path where a container mounts something already"
                walk.add("error", mount, "spec.dataset.mountPath", show(mount_path.value), message, "choose another path")


def _items(node: Node | None) -> list[Node]:
    return node.items() if node is not None else []
