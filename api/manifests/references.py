"""Rules between objects: what names what, inside the files and outside."""

from __future__ import annotations

from forebay.api.fluid import kinds as fluid
from forebay.api.fluid.blocks import OPERATIONS
from forebay.api.manifests import mounts
from forebay.api.manifests.loaded import Loaded, Object
from forebay.api.problem import Problem, Severity, show
from forebay.api.yamldoc import Node

_OPERATION_NOTES = {
    "DataLoad": "use `forebay warm NAME:PATH` on one machine",
    "DataMigrate": "copy the data with a tool of the stores",
    "DataBackup": "a warm cache directory is found again by itself",
    "DataProcess": "run the program on the mounted tree",
    "ThinRuntimeProfile": "our own engine serves every dataset on one machine",
    "CacheRuntimeClass": "our own engine serves every dataset on one machine",
}


def check(loaded: Loaded) -> None:
    """Add problems of references to `loaded.problems`."""
    used_secrets = mounts.check(loaded)
    checker = _Checker(loaded, used_secrets)
    for found in loaded.objects:
        checker.object(found)


class _Checker:
    def __init__(self, loaded: Loaded, used_secrets: set[tuple[str, str]]) -> None:
        self.loaded = loaded
        self.datasets = {(d.namespace, d.name): d for d in loaded.datasets}
        self.index = {(o.kind, o.namespace, o.name): o for o in loaded.objects if o.group == fluid.GROUP}
        self.used_secrets = used_secrets

    def object(self, found: Object) -> None:
        if found.group == "" and found.kind == "Secret":
            if (found.namespace, found.name) not in self.used_secrets:
                self._say(found, "", "is not used by a Dataset of these files", "see its name and namespace if it should be")
        elif found.group != fluid.GROUP:
            return
        elif found.kind in fluid.RUNTIMES:
            if (found.namespace, found.name) not in self.datasets:
                remedy = "a runtime serves the Dataset of equal name and namespace; add it, or rename one of the two"
                self._say(found, "metadata.name", "names no Dataset of these files", remedy, value=show(found.name))
            self._named(found, "spec.profileName", "ThinRuntimeProfile", "")
            self._named(found, "spec.runtimeClassName", "CacheRuntimeClass", "")
            self._volumes(found)
        elif found.kind in _OPERATION_NOTES:
            self._say(found, "kind", "is not acted on yet", _OPERATION_NOTES[found.kind], value=show(found.kind))
            self._operation(found)

    def _operation(self, found: Object) -> None:
        if found.kind == "DataBackup":
            self._named(found, "spec.dataset", "Dataset", found.namespace)
        for path in ("spec.dataset", "spec.from.dataset", "spec.to.dataset"):
            if found.kind in OPERATIONS:
                self._named(found, f"{path}.name", "Dataset", found.namespace)
        before = found.node.at("spec", "runAfter")
        if before is None:
            return
        namespace = before.string("namespace") or found.namespace
        previous = self.index.get((before.string("kind"), namespace, before.string("name")))
        if previous is None:
            self._named(found, "spec.runAfter.name", before.string("kind"), namespace)
            return
        seen = {id(found)}
        step: Object | None = previous
        while step is not None and id(step) not in seen:
            seen.add(id(step))
            after = step.node.at("spec", "runAfter")
            if after is None:
                return
            step = self.index.get((after.string("kind"), after.string("namespace") or step.namespace, after.string("name")))
        if step is found:
            self._say(found, "spec.runAfter", "waits for itself", "break the circle of runAfter", severity="error", node=before)

    def _named(self, found: Object, field: str, kind: str, namespace: str) -> None:
        """Warn when the object that a field names is not in the files; an operation on a reference dataset is an error."""
        node = found.node.at(*field.split("."))
        if node is None or not isinstance(node.value, str) or not node.value:
            return
        target = self.index.get((kind, namespace, node.value))
        if target is None:
            self._say(found, field, f"is not in these files ({kind})", mounts.APPLY, value=show(node.value), node=node)
        elif kind == "Dataset" and found.kind in OPERATIONS:
            dataset = self.datasets.get((namespace, node.value))
            if dataset is not None and any(m.scheme == "dataset" for m in dataset.mounts):
                remedy = "run the operation on the dataset it refers to"
                self._say(found, field, "is a reference dataset", remedy, value=show(node.value), severity="error", node=node)

    def _volumes(self, found: Object) -> None:
        """CacheRuntime: every volume that a component mounts is declared, in the runtime or in its class's template."""
        if found.kind != "CacheRuntime":
            return
        class_name = found.node.at("spec", "runtimeClassName")
        known = self.index.get(("CacheRuntimeClass", "", str(class_name.value))) if class_name is not None else None
        if known is None:
            return
        for component in ("master", "worker", "client"):
            declared = _names(found.node.at("spec", "volumes"))
            declared |= _names(known.node.at("topology", component, "template", "spec", "volumes"))
            mounts = found.node.at("spec", component, "volumeMounts")
            for i, mount in enumerate(mounts.items() if mounts is not None else []):
                if mount.string("name") and mount.string("name") not in declared:
                    field = f"spec.{component}.volumeMounts[{i}].name"
                    message, remedy = "is declared neither in spec.volumes nor in the class", "declare it in spec.volumes"
                    self._say(found, field, message, remedy, value=show(mount.string("name")), severity="error", node=mount)

    def _say(
        self,
        found: Object,
        field: str,
        message: str,
        remedy: str,
        *,
        value: str = "",
        severity: Severity = "warning",
        node: Node | None = None,
    ) -> None:
        at = node or (found.node.at(*field.split(".")) if field else None) or found.node
        self.loaded.problems.append(Problem(severity, at.file, at.line, found.label, field, value, message, remedy))


def _names(node: Node | None) -> set[str]:
    return {item.string("name") for item in node.items()} if node is not None else set()
