"""Dataset and runtime documents: from nodes that passed the schema to typed values, with the rules of mounts."""

from __future__ import annotations

from forebay.api.fluid.names import ENGINE_ANNOTATION
from forebay.api.hints.datasethints import WATCH
from forebay.api.manifests import schemes
from forebay.api.manifests.documents import DatasetDoc, LevelDoc, MountDoc, RuntimeDoc, SecretRef
from forebay.api.manifests.freshness import FLOOR, FRESHNESS, parse_floor, parse_freshness
from forebay.api.manifests.tiers import read_cache_levels, read_levels
from forebay.api.names import normalise
from forebay.api.problem import did_you_mean, show
from forebay.api.schema import Walk, join
from forebay.api.yamldoc import Node

OWN_ANNOTATIONS = (FRESHNESS, FLOOR, ENGINE_ANNOTATION, WATCH)


def read_dataset(node: Node, namespace: str, name: str, walk: Walk) -> DatasetDoc:
    """Type a Dataset. What is wrong goes to `walk`; the result is usable only if nothing did."""
    spec = node.at("spec") or Node({}, node.file, node.line)
    annotations, lines = read_annotations(node, walk, OWN_ANNOTATIONS)
    modes = [m.value for m in _items(spec.at("accessModes")) if isinstance(m.value, str)]
    owner = spec.at("owner")
    return DatasetDoc(
        namespace=namespace,
        name=name,
        mounts=_mounts(spec, walk),
        access_modes=modes,
        uid=_id(owner, "uid", walk),
        gid=_id(owner, "gid", walk),
        annotations=annotations,
        annotation_lines=lines,
        file=node.file,
        line=node.line,
    )


def read_runtime(node: Node, kind: str, namespace: str, name: str, walk: Walk) -> RuntimeDoc:
    """Type a runtime of any kind as far as a data path reads it: its tiers and annotations."""
    spec = node.at("spec") or Node({}, node.file, node.line)
    annotations, _ = read_annotations(node, walk, (FLOOR, ENGINE_ANNOTATION))
    free_ratio: float | None = None
    client: list[LevelDoc] = []
    if kind == "CacheRuntime":
        worker = read_cache_levels(spec.at("worker", "tieredStore"), "spec.worker.tieredStore", walk)
        client = read_cache_levels(spec.at("client", "tieredStore"), "spec.client.tieredStore", walk)
        second = spec.at("client", "tieredStore")
        if worker and client and second:
            remedy = "one machine has one cache for both; remove it, or keep it for a cluster"
            walk.add("warning", second, "spec.client.tieredStore", "", "is not acted on: the worker's tiers are used", remedy)
        levels = worker or client
    else:
        levels, free_ratio = read_levels(spec.at("tieredstore"), "spec.tieredstore", kind, walk)
    engine = ("", "")
    for key, described in (("profileName", "ThinRuntimeProfile"), ("runtimeClassName", "CacheRuntimeClass")):
        if spec.string(key):
            engine = (described, spec.string(key))
    return RuntimeDoc(kind, namespace, name, levels, client, annotations, free_ratio, engine, node.file, node.line)


def read_annotations(node: Node, walk: Walk, own: tuple[str, ...]) -> tuple[dict[str, str], dict[str, int]]:
    """Annotations and their lines. Ours are checked; Fluid's that nothing acts on yet are said, one line each."""
    block = node.at("metadata", "annotations")
    if block is None:
        return {}, {}
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    for key, value in block.map().items():
        if not isinstance(value.value, str):
            continue  # reported by the schema
        found[key], lines[key] = value.value, block.key_lines[key]
        field = join("metadata.annotations", key)
        domain = key.partition("/")[0]
        if domain == "forebay.io":
            _check_own(key, value, field, own, walk)
        elif domain == "fluid.io" or domain.endswith(".fluid.io"):
            note = "it has no effect on one machine; remove it, or keep it for a cluster"
            walk.add("warning", value, field, "", "is not acted on yet", note, lines[key])
    return found, lines


def _check_own(key: str, value: Node, field: str, own: tuple[str, ...], walk: Walk) -> None:
    """One annotation of ours: known on this kind, with a good value."""
    text = str(value.value)
    try:
        if key == FRESHNESS:
            parse_freshness(text)
        elif key == FLOOR:
            parse_floor(text)
        if key not in own:
            remedy = did_you_mean(key, own, f"remove it; known here: {', '.join(own)}")
            walk.add("warning", value, field, "", "is no annotation of forebay on this kind and has no effect", remedy)
        elif key == WATCH and text != "true":
            walk.add("warning", value, field, show(text), "has no effect", 'write "true", or remove it')
    except ValueError as e:
        what = "freshness" if key == FRESHNESS else "free-space floor"
        walk.add("error", value, field, show(text), f"is no {what}", str(e))


def _items(node: Node | None) -> list[Node]:
    return node.items() if node is not None else []


def _id(owner: Node | None, key: str, walk: Walk) -> int | None:
    node = owner.at(key) if owner is not None else None
    if node is None or isinstance(node.value, bool) or not isinstance(node.value, int):
        return None
    if not 0 <= node.value < (1 << 32) - 1:
        walk.add("error", node, f"spec.owner.{key}", show(node.value), "is no user or group id", "write 0 to 4294967294")
        return None
    return node.value


def _mounts(spec: Node, walk: Walk) -> list[MountDoc]:
    shared = _options(spec, "sharedOptions", "sharedEncryptOptions", "spec", walk)
    nodes = _items(spec.at("mounts"))
    mounts: list[MountDoc] = []
    for i, node in enumerate(nodes):
        if not isinstance(node.value, dict):
            continue  # reported by the schema
        mount = _mount(node, i, len(nodes) == 1, shared, walk)
        if mount is not None:
            mounts.append(mount)
    return mounts


class _Options:
    """Plain and encrypted options of one block, with the line and the field of each."""

    def __init__(self) -> None:
        self.plain: dict[str, str] = {}
        self.encrypted: dict[str, SecretRef] = {}
        self.lines: dict[str, int] = {}
        self.fields: dict[str, str] = {}


def _options(node: Node, plain: str, encrypted: str, path: str, walk: Walk) -> _Options:
    block = _Options()
    options = node.at(plain)
    if options is not None and isinstance(options.value, dict):
        for key, value in options.map().items():
            if isinstance(value.value, str):
                block.plain[key] = value.value
                block.lines[key] = options.key_lines[key]
                block.fields[key] = join(f"{path}.{plain}", key)
    for i, item in enumerate(_items(node.at(encrypted))):
        name = item.string("name")
        field = f"{path}.{encrypted}[{i}]"
        ref = item.at("valueFrom", "secretKeyRef")
        if not name:
            continue  # reported by the schema
        if name in block.encrypted:
            walk.add("error", item, f"{field}.name", show(name), "stands twice in this list", "keep one of the two")
            continue
        if ref is None or not ref.string("name"):
            remedy = "add valueFrom: {secretKeyRef: {name: ..., key: ...}}"
            walk.add("error", item, f"{field}.valueFrom.secretKeyRef", "", f"is missing for option {show(name)}", remedy)
            continue
        if not ref.string("key"):
            remedy = "add the key of the Secret that holds the value"
            walk.add("error", ref, f"{field}.valueFrom.secretKeyRef.key", "", "is missing", remedy)
            continue
        optional = ref.at("optional")
        is_optional = optional is not None and optional.value is True
        block.encrypted[name] = SecretRef(ref.string("name"), ref.string("key"), is_optional, ref.line)
        block.lines[name] = item.line
        block.fields[name] = field
    return block


def _mount(node: Node, index: int, single: bool, shared: _Options, walk: Walk) -> MountDoc | None:
    field = f"spec.mounts[{index}]"
    own = _options(node, "options", "encryptOptions", field, walk)
    options = {**shared.plain, **own.plain}
    encrypted = {**shared.encrypted, **own.encrypted}
    lines = {**shared.lines, **own.lines}
    for key in options.keys() & encrypted.keys():
        walk.add(
            "error",
            node,
            {**shared.fields, **own.fields}[key],
            "",
            f"sets option {show(key)}, which stands in the plain and in the encrypted options",
            "keep one of the two; a credential belongs in encryptOptions",
            lines[key],
        )
    freshness = options.get(FRESHNESS)
    if freshness is not None:
        try:
            parse_freshness(freshness)
        except ValueError as e:
            where = own.fields.get(FRESHNESS) or shared.fields[FRESHNESS]
            walk.add("error", node, where, show(freshness), "is no freshness", str(e), lines[FRESHNESS])
    point = node.at("mountPoint")
    if point is None or not isinstance(point.value, str):
        return None  # reported by the schema
    scheme, rest = schemes.split(point.value)
    place = _place(node, field, single, walk)
    if place is None:
        return None
    read_only = node.at("readOnly")
    return MountDoc(
        index=index,
        mount_point=point.value,
        scheme=scheme,
        rest=rest,
        name=node.string("name"),
        place=place,
        read_only=read_only is not None and read_only.value is True,
        options=options,
        encrypted=encrypted,
        lines=lines,
        fields={**shared.fields, **own.fields},
        line=point.line,
    )


def _place(node: Node, field: str, single: bool, walk: Walk) -> str | None:
    """Where a mount appears: an absolute `path` as it is, anything else is ignored for `/<name>` (Fluid's rule)."""
    path_node, name_node = node.at("path"), node.at("name")
    path, name = node.string("path"), node.string("name")
    if path.startswith("/"):
        text, source, where = path, path_node, f"{field}.path"
    else:
        text, source, where = "/" + name.lstrip("/"), name_node, f"{field}.name"
        if path and path_node is not None:
            if ".." in path.split("/"):
                remedy = "write an absolute path without it"
                walk.add("error", path_node, f"{field}.path", show(path), 'is not absolute and holds a ".." part', remedy)
                return None
            message = f"is not absolute, so Fluid's rule ignores it and the mount appears at {show(text)}"
            walk.add("warning", path_node, f"{field}.path", show(path), message, f"write {show('/' + path)}")
        if not name and not single:
            message = "is missing, and so is an absolute path"
            walk.add("error", node, f"{field}.name", "", message, "give the mount a name, or a path such as /data")
            return None
    try:
        return normalise(text)
    except ValueError as e:
        walk.add("error", source or node, where, show(text), str(e), "write an absolute path of plain names, such as /data/raw")
        return None
