"""Volcano: pods name their PodGroup by annotation, and by another the task they are of; the object has minimums of both.

Source: `scheduling/v1beta1` of volcano.sh/apis. Volcano counts pods that have succeeded. Not read: `networkTopology`,
`minResources` (what pods ask is known), and `subGroupPolicy`, which is refused where it asks for sub-groups at once.
"""

from __future__ import annotations

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.groups.reading import Mistake, count, counts, mapping, text
from forebay.scheduler.groups.said import Naming, Object, Reference, Said

KIND = "PodGroup.scheduling.volcano.sh"
SPACE = "volcano"
NAMES = ("scheduling.k8s.io/group-name", "scheduling.volcano.sh/group-name")
TASK = "volcano.sh/task-spec"
VERSION = "scheduling.volcano.sh/v1beta1"


def naming(pod: Pod) -> Naming | None:
    """The gang that a pod names, with a mistake where it names two; None for none."""
    meta = pod.metadata
    source = f"Pod {meta.namespace}/{meta.name}"
    named = [(key, meta.annotations[key]) for key in NAMES if meta.annotations.get(key)]
    if not named:
        return None
    mistake = ""
    if len({name for _, name in named}) > 1:
        told = " and ".join(f'annotation {key} names gang "{name}"' for key, name in named)
        mistake = f"{source}: {told}; let both name the same, or remove one"
    task = meta.annotations.get(TASK, "")
    return Naming(SPACE, f"{meta.namespace}/{named[0][1]}", Said(source, mistake=mistake), (KIND,), task, needs_object=True)


def read(value: Object) -> Said:
    """A PodGroup object."""
    meta, spec, status = mapping(value.get("metadata")), mapping(value.get("spec")), mapping(value.get("status"))
    namespace, name = text(meta.get("namespace")), text(meta.get("name"))
    source = f"PodGroup {namespace}/{name} (scheduling.volcano.sh)"
    about = Reference(VERSION, "PodGroup", namespace, name, text(meta.get("uid")))
    try:
        for at, one in enumerate(_listed(spec.get("subGroupPolicy"))):
            if count(f"spec.subGroupPolicy[{at}].minSubGroups", one.get("minSubGroups"), least=0):
                raise Mistake(
                    f"spec.subGroupPolicy[{at}].minSubGroups is not read here; say the same with spec.minTaskMember, or remove it"
                )
        return Said(
            source,
            count("spec.minMember", spec.get("minMember", 0), least=0),
            counts("spec.minTaskMember", spec.get("minTaskMember")),
            "waiting-running-succeed",
            priority_class=text(spec.get("priorityClassName")),
            queue=text(spec.get("queue")),
            satisfied=text(status.get("phase")) in ("Running", "Completed"),
            about=about,
        )
    except Mistake as wrong:
        return Said(source, mistake=f"{source}: {wrong}", about=about)


def _listed(value: object) -> list[Object]:
    return [mapping(one) for one in value] if isinstance(value, list) else []
