"""Manifest files -> typed datasets and everything that is wrong with them, offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from forebay.api.fluid import kinds as fluid
from forebay.api.manifests import grants, references, rules
from forebay.api.manifests.dataset import read_dataset, read_runtime
from forebay.api.manifests.documents import DatasetDoc, RuntimeDoc, SecretDoc, read_secret_data
from forebay.api.manifests.loaded import Loaded, Object
from forebay.api.names import is_dns_1035, is_namespace, is_object_name, label, suggest_dns_1035
from forebay.api.problem import Problem, did_you_mean, show
from forebay.api.schema import Walk, join
from forebay.api.yamldoc import Node, read_documents

CORE_CLUSTER_SCOPED = (
    "Namespace",
    "Node",
    "PersistentVolume",
    "StorageClass",
    "PriorityClass",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "CSIDriver",
)
"""Kinds of Kubernetes that are often written beside Datasets and have no namespace."""

SECRET_FIELDS = ("apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData")


def load(paths: Sequence[str]) -> Loaded:
    """Read files, folders and "-" (standard input). Never raises for what the files hold: see `Loaded.problems`."""
    documents, problems = read_documents(paths)
    return load_documents(documents, problems)


def load_documents(documents: list[Node], problems: list[Problem]) -> Loaded:
    """As `load`, for documents that were read already. `problems` is extended and becomes the result's."""
    order = {file: i for i, file in enumerate(dict.fromkeys([*(p.file for p in problems), *(d.file for d in documents)]))}
    loaded = Loaded(problems, [], {}, [])
    for document in _flatten(documents, problems):
        found = _identify(document, problems)
        if found is not None:
            loaded.objects.append(found)
    _refuse_twice(loaded)
    runtimes: dict[tuple[str, str], RuntimeDoc] = {}
    datasets: dict[tuple[str, str], DatasetDoc] = {}
    for found in loaded.objects:
        key = (found.namespace, found.name)
        if found.group != fluid.GROUP:
            if found.group == "" and found.kind == "Secret":
                loaded.secrets.setdefault(key, _secret(found, problems))
            elif grants.is_grant(found):
                grants.check(found.node, Walk(found.label, problems, unused=False))
            continue
        acted = found.kind == "Dataset" or found.kind in fluid.RUNTIMES
        walk = Walk(found.label, problems, unused=acted)
        walk.check(found.node, fluid.KINDS[found.kind], "")
        rules.check(found.kind, found.namespace, found.node, walk)
        if found.kind == "Dataset":
            datasets.setdefault(key, read_dataset(found.node, *key, walk))
        elif found.kind in fluid.RUNTIMES:
            runtimes.setdefault(key, read_runtime(found.node, found.kind, *key, walk))
    loaded.datasets = [msgspec.structs.replace(d, runtime=runtimes.get(key)) for key, d in datasets.items()]
    references.check(loaded)
    problems[:] = dict.fromkeys(problems)  # a shared option is seen once for each mount
    problems.sort(key=lambda p: (order.get(p.file, len(order)), p.line))
    return loaded


def _flatten(documents: list[Node], problems: list[Problem]) -> list[Node]:
    """Documents with the items of every `kind: List` (what `kubectl get -o yaml` prints) in its place."""
    flat: list[Node] = []
    for document in documents:
        if not isinstance(document.value, dict):
            message = f"holds {document.kind} where a Kubernetes object is expected"
            problems.append(
                Problem(
                    "error", document.file, document.line, "", "", "", message, "start the document with apiVersion: and kind:"
                )
            )
        elif document.string("kind") == "List" and document.string("apiVersion") == "v1" and (items := document.at("items")):
            flat += _flatten(items.items(), problems)
        else:
            flat.append(document)
    return flat


def _identify(node: Node, problems: list[Problem]) -> Object | None:
    """Kind, namespace and name of a document; None (and a problem) where nothing more can be said about it."""

    def bad(field: str, value: str, message: str, remedy: str, *, warning: bool = False, object_: str = "") -> None:
        at = node.at(*field.split("."))
        line = at.line if at else node.line
        problems.append(Problem("warning" if warning else "error", node.file, line, object_, field, value, message, remedy))

    for field in ("apiVersion", "kind"):
        if not node.string(field):
            example = "data.fluid.io/v1alpha1" if field == "apiVersion" else "Dataset"
            near = [k for k in node.map() if k.lower() == field.lower() and k != field]
            bad(
                field,
                "",
                "is missing",
                f'did you mean "{field}" by "{near[0]}"?' if near else f"add it, such as {field}: {example}",
            )
            return None
    api_version, kind = node.string("apiVersion"), node.string("kind")
    group = api_version.rpartition("/")[0]
    name, namespace = node.string("metadata.name"), ""
    metadata = node.at("metadata")
    if metadata is not None:
        name, namespace = metadata.string("name"), metadata.string("namespace")
    if group != fluid.GROUP:
        where = "" if kind in CORE_CLUSTER_SCOPED else namespace or "default"
        return _foreign(Object(group, kind, where, name, node), bad)
    if api_version != fluid.API_VERSION:
        bad("apiVersion", show(api_version), "is no version of Fluid's API", f"write {fluid.API_VERSION}")
        return None
    if kind not in fluid.KINDS:
        removed = "Fluid removed it in 2026; use another runtime kind" if kind == "GooseFSRuntime" else ""
        bad("kind", show(kind), "is no kind of data.fluid.io/v1alpha1", removed or did_you_mean(kind, fluid.KINDS, _kinds()))
        return None
    cluster = kind in fluid.CLUSTER_SCOPED
    who = label(kind, "" if cluster else namespace or "default", name)
    if not name:
        found = node.at("metadata", "name")
        if found is None:
            bad("metadata.name", "", "is missing", "add metadata: {name: ...}", object_=kind)
        else:
            bad("metadata.name", show(found.value), f"is {found.kind}, not a name", "write a string", object_=kind)
        return None
    if kind == "Dataset" or kind in fluid.RUNTIMES:
        if not is_dns_1035(name):
            message = "is no DNS-1035 label (at most 63 of a-z, 0-9 and -, starting with a letter)"
            bad("metadata.name", show(name), message, f"write {suggest_dns_1035(name)}", object_=who)
    elif not is_object_name(name):
        bad("metadata.name", show(name), "is no DNS-1123 name", "use a-z, 0-9, - and .", object_=who)
    if cluster:
        if namespace:
            bad(
                "metadata.namespace",
                show(namespace),
                "has no effect: the kind is cluster-scoped",
                "remove it",
                warning=True,
                object_=who,
            )
        namespace = ""
    else:
        namespace = namespace or "default"
        if not is_namespace(namespace):
            message = "is no DNS-1123 label (at most 63 of a-z, 0-9 and -)"
            bad("metadata.namespace", show(namespace), message, f"write {suggest_dns_1035(namespace)}", object_=who)
    return Object(fluid.GROUP, kind, namespace, name, node)


def _foreign(found: Object, bad: Callable[..., None]) -> Object:
    """A kind of another group: kept for references, and reported, for nothing here acts on it (Secrets are read)."""
    if found.kind == "Secret" and found.group == "":
        if not found.name:
            bad("metadata.name", "", "is missing", "add metadata: {name: ...}", object_="Secret")
    else:
        bad(
            "kind",
            show(found.kind),
            "is not acted on here",
            "apply it with kubectl where there is a cluster",
            warning=True,
            object_=found.label,
        )
    return found


def _refuse_twice(loaded: Loaded) -> None:
    """The same object twice, and two runtimes for one dataset, are errors at the second one."""
    seen: dict[tuple[str, ...], Object] = {}
    bound: dict[tuple[str, str], Object] = {}
    for found in loaded.objects:
        if not found.name:
            continue
        key = (found.group, found.kind, found.namespace, found.name)
        first = seen.setdefault(key, found)
        field = found.node.at("metadata", "name") or found.node
        if first is not found:
            where = f"{first.node.file}:{first.node.line}"
            loaded.problems.append(
                Problem(
                    "error",
                    found.node.file,
                    field.line,
                    found.label,
                    "metadata.name",
                    show(found.name),
                    f"is declared twice (first at {where})",
                    "remove or rename one of the two",
                )
            )
        elif found.group == fluid.GROUP and found.kind in fluid.RUNTIMES:
            other = bound.setdefault((found.namespace, found.name), found)
            if other is not found:
                where = (
                    f"{other.kind} at {other.node.file}:{other.node.line}" if other.node.line else f"{other.kind} that is there"
                )
                loaded.problems.append(
                    Problem(
                        "error",
                        found.node.file,
                        field.line,
                        found.label,
                        "metadata.name",
                        show(found.name),
                        f"is a second runtime for one dataset (the first is the {where})",
                        "keep one runtime for each dataset",
                    )
                )


def _secret(found: Object, problems: list[Problem]) -> SecretDoc:
    data, bad = read_secret_data(found.node)
    for field, line, message, remedy in bad:
        problems.append(Problem("error", found.node.file, line, found.label, field, "", message, remedy))
    for key, line in found.node.key_lines.items():
        if key not in SECRET_FIELDS:
            remedy = did_you_mean(key, SECRET_FIELDS, "remove it")
            message = "is no field of a Secret and is not read"
            problems.append(Problem("warning", found.node.file, line, found.label, join("", key), "", message, remedy))
    return SecretDoc(found.namespace, found.name, data, found.node.file, found.node.line)


def _kinds() -> str:
    return f"write one of {', '.join(fluid.KINDS)}"
