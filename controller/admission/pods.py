"""What is done to a pod that mounts datasets: node affinity, mount propagation, one annotation. Pure, and idempotent: the
webhook may be called again for its own result (`reinvocationPolicy: IfNeeded`).

Several `required` datasets are ANDed: each expression goes into every term of the pod's own required node affinity, whose
terms are alternatives.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from forebay.api.problem import show
from forebay.controller.admission.locality import Locality, is_nowhere, preferred, required
from forebay.controller.admission.preferences import FUSE, NODE, Preferences
from forebay.controller.admission.review import Answer, Cause, Object, Patch

INJECT = "fuse.serverful.fluid.io/inject"
SIDECAR = ("serverless.fluid.io/inject", "fuse.sidecar.fluid.io/inject")
OPT_OUT = "fluid.io/enable-injection"
IN_USE = "fluid.io/datasets-in-use"
REQUIRED = "required"
_SCHED = re.compile(r"fluid\.io/dataset\.([A-Za-z0-9.-]*)\.sched")
DATASET_ATTRIBUTE = "forebay.io/dataset"
PROPAGATION = "HostToContainer"

LookUp = Callable[[str], Locality | None]
"""The dataset whose claim has this name, in the pod's namespace."""


def admit(pod: Object, namespace: str, driver: str, look_up: LookUp, preferences: Preferences) -> Answer:
    """`namespace` is the request's: a new pod's own may be empty."""
    spec, meta = _map(pod.get("spec")), _map(pod.get("metadata"))
    labels = _map(meta.get("labels"))
    if labels.get(OPT_OUT) == "false":
        return Answer()
    foreign = tuple(_foreign(spec, namespace, driver))
    if foreign:
        return Answer(refused=foreign)
    data = _mounted(spec, look_up)
    wanted, warnings = _demanded(labels, data)
    patch = [*_propagation(spec, data), *_affinity(spec, data, wanted, preferences), *_in_use(meta, data)]
    warnings += [
        f"metadata.labels[{show(key)}] asks for a sidecar, which is not served: the node's own mount shows the dataset"
        for key in SIDECAR
        if labels.get(key) == "true" and data
    ]
    return Answer(patch=patch, warnings=tuple(warnings))


# --- what the pod names ---------------------------------------------------------------------------------------------


def _mounted(spec: Object, look_up: LookUp) -> dict[str, Locality]:
    """Volume -> its dataset."""
    found: dict[str, Locality] = {}
    for volume in _items(spec.get("volumes")):
        claim = _map(volume.get("persistentVolumeClaim")).get("claimName")
        data = look_up(claim) if isinstance(claim, str) and claim else None
        if data is not None:
            found[str(volume.get("name", ""))] = data
    return found


def _claims(spec_data: Mapping[str, Locality]) -> dict[str, Locality]:
    return {data.claim: data for data in spec_data.values()}


def _foreign(spec: Object, namespace: str, driver: str) -> Iterable[Cause]:
    """Inline volumes of our driver that name a dataset of another namespace: the node would refuse them later."""
    for i, volume in enumerate(_items(spec.get("volumes"))):
        csi = _map(volume.get("csi"))
        named = _map(csi.get("volumeAttributes")).get(DATASET_ATTRIBUTE)
        if csi.get("driver") != driver or not isinstance(named, str) or "/" not in named:
            continue
        field = f"spec.volumes[{i}].csi.volumeAttributes[{show(DATASET_ATTRIBUTE)}]"
        space, _, name = named.partition("/")
        remedy = f"make a Dataset here with mountPoint: dataset://{named}, have its owner grant it, and mount that one's claim"
        if space == namespace:
            remedy = f"mount claim {name}"
        yield Cause(field, f"{field} {show(named)} names a dataset by its namespace; {remedy}")


def _demanded(labels: Mapping[str, Any], data: Mapping[str, Locality]) -> tuple[list[Locality], list[str]]:
    """Datasets that must be where the pod runs, in the order of their names, and what is odd about the labels."""
    claims, wanted, warnings = _claims(data), list[Locality](), list[str]()
    for key in sorted(labels):
        match = _SCHED.fullmatch(key)
        if match is None:
            continue
        field = f"metadata.labels[{show(key)}]"
        found = claims.get(match[1])
        if labels[key] != REQUIRED:
            warnings.append(f"{field} {show(labels[key])} has no effect; write {REQUIRED}, or remove it")
        elif found is None:
            warnings.append(f"{field} names no dataset that the pod mounts, and has no effect; write the name of its claim")
        else:
            wanted.append(found)
            if is_nowhere(found):
                warnings.append(
                    f"{field}: no node holds data of {found.namespace}/{found.name} yet; the pod waits until one does"
                )
    return wanted, warnings


# --- what becomes of it ---------------------------------------------------------------------------------------------


def _propagation(spec: Object, data: Mapping[str, Locality]) -> Patch:
    """A mount that was lost and made again on the node is seen by containers with this alone."""
    patch: Patch = []
    for kind in ("initContainers", "containers"):
        for i, container in enumerate(_items(spec.get(kind))):
            for j, mount in enumerate(_items(container.get("volumeMounts"))):
                if mount.get("name") in data and mount.get("mountPropagation", "None") == "None":
                    path = f"/spec/{kind}/{i}/volumeMounts/{j}/mountPropagation"
                    patch.append({"op": "add", "path": path, "value": PROPAGATION})
    return patch


def _affinity(spec: Object, data: Mapping[str, Locality], wanted: list[Locality], preferences: Preferences) -> Patch:
    before = _map(spec.get("affinity"))
    node = copy.deepcopy(_map(before.get("nodeAffinity")))
    demanded = {(d.namespace, d.name) for d in wanted}
    near = [d for d in _distinct(data.values()) if (d.namespace, d.name) not in demanded]
    terms = [term for d in near for term in preferred(d, preferences)]
    present = _items(node.get("preferredDuringSchedulingIgnoredDuringExecution"))
    if terms and not _chosen_by_hand(spec, node, terms, wanted, preferences):
        missing = [term for term in terms if not any(term["preference"] == p.get("preference") for p in present)]
        if missing:
            node["preferredDuringSchedulingIgnoredDuringExecution"] = [*present, *missing]
    expressions = [e for d in _distinct(wanted) for e in required(d, preferences)]
    if expressions:
        node["requiredDuringSchedulingIgnoredDuringExecution"] = _all_of(
            _map(node.get("requiredDuringSchedulingIgnoredDuringExecution")), expressions
        )
    if node == _map(before.get("nodeAffinity")):
        return []
    return [{"op": "add", "path": "/spec/affinity", "value": {**before, "nodeAffinity": node}}]


def _all_of(selector: Object, expressions: list[Object]) -> Object:
    """Every alternative of a NodeSelector with all of `expressions`. An empty alternative selects nothing and stays so."""
    if not selector:
        return {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    terms = []
    for term in _items(selector.get("nodeSelectorTerms")):
        own = _items(term.get("matchExpressions"))
        if own or term.get("matchFields"):
            term = {**term, "matchExpressions": [*own, *(e for e in expressions if e not in own)]}
        terms.append(term)
    return {**selector, "nodeSelectorTerms": terms}


def _chosen_by_hand(spec: Object, node: Object, ours: list[Object], wanted: list[Locality], preferences: Preferences) -> bool:
    """Whether the pod says itself where it wants to be, by a key that we would use: then nothing is preferred for it.

    What an earlier call has put there is not the pod's own word.
    """
    keys = {t.name for t in preferences.preferred} - {NODE, FUSE}
    keys |= {e["key"] for term in ours for e in term["preference"]["matchExpressions"]}
    if keys & _map(spec.get("nodeSelector")).keys():
        return True
    made = [e for d in wanted for e in required(d, preferences)]
    made += [e for term in ours for e in term["preference"]["matchExpressions"]]
    used = [t.get("preference") for t in _items(node.get("preferredDuringSchedulingIgnoredDuringExecution"))]
    used += _items(_map(node.get("requiredDuringSchedulingIgnoredDuringExecution")).get("nodeSelectorTerms"))
    expressions = [e for term in used for e in _items(_map(term).get("matchExpressions")) if e not in made]
    return any(e.get("key") in keys for e in expressions)


def _in_use(meta: Object, data: Mapping[str, Locality]) -> Patch:
    """Fluid's annotation: the claims' names, sorted."""
    value = ",".join(sorted({d.claim for d in data.values()}))
    annotations = meta.get("annotations")
    if not value or _map(annotations).get(IN_USE) == value:
        return []
    if not isinstance(annotations, dict):
        return [{"op": "add", "path": "/metadata/annotations", "value": {IN_USE: value}}]
    return [{"op": "add", "path": f"/metadata/annotations/{IN_USE.replace('/', '~1')}", "value": value}]


def _distinct(data: Iterable[Locality]) -> list[Locality]:
    """Each dataset once (a pod may mount a claim twice, or a dataset and a reference to it), in the order of their names."""
    found = {(d.namespace, d.name): d for d in data}
    return [found[key] for key in sorted(found)]


def _map(value: Any) -> Object:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Object]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
