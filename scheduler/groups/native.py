"""Kubernetes' own PodGroup (scheduling.k8s.io, v1alpha2 of 1.36 and v1beta1 of 1.37): pods point to it by
`spec.schedulingGroup.podGroupName`, and its policy is `basic` or `gang`.

A PodGroup holds a copy of its Workload's template, so the Workload itself decides nothing. Pods that have a node count towards
`minCount`; `disruptionMode` says whether all of them go when one has to. Not read: topology constraints, and CompositePodGroups
(1.37), whose members are refused.
"""

from __future__ import annotations

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.groups.reading import Mistake, count, mapping, text
from forebay.scheduler.groups.said import Naming, Object, Reference, Said

GROUP = "scheduling.k8s.io"
KIND = f"PodGroup.{GROUP}"
SPACE = "kubernetes"
SCHEDULED, INITIALLY = "PodGroupScheduled", "PodGroupInitiallyScheduled"
"""Its condition in 1.36 and in 1.37."""


def naming(pod: Pod) -> Naming | None:
    """The gang that a pod names, None for none."""
    meta, group = pod.metadata, pod.spec.scheduling_group
    if group is None or not group.pod_group_name:
        return None
    source = f"Pod {meta.namespace}/{meta.name}"
    return Naming(SPACE, f"{meta.namespace}/{group.pod_group_name}", Said(source), (KIND,), needs_object=True)


def read(value: Object) -> Said:
    """A PodGroup object."""
    meta, spec, status = mapping(value.get("metadata")), mapping(value.get("spec")), mapping(value.get("status"))
    namespace, name = text(meta.get("namespace")), text(meta.get("name"))
    source = f"PodGroup {namespace}/{name} ({GROUP})"
    version = text(value.get("apiVersion")) or f"{GROUP}/v1alpha2"
    about = Reference(version, "PodGroup", namespace, name, text(meta.get("uid")))
    policies = mapping(spec.get("schedulingPolicy"))
    priority = spec.get("priority")
    try:
        if text(spec.get("parentCompositePodGroupName")):
            raise Mistake("spec.parentCompositePodGroupName is not read here; give the group a gang policy of its own")
        if len(policies) != 1 or not policies.keys() <= {"basic", "gang"}:
            raise Mistake(f"spec.schedulingPolicy has {', '.join(policies) or 'nothing'}; write one of basic and gang")
        single = "basic" in policies
        minimum = 0 if single else count("spec.schedulingPolicy.gang.minCount", mapping(policies["gang"]).get("minCount", 1))
        return Said(
            source,
            minimum,
            policy="waiting-and-running",
            priority=priority if isinstance(priority, int) else None,
            priority_class=text(spec.get("priorityClassName")),
            satisfied=_scheduled(status),
            single=single,
            together=_together(spec.get("disruptionMode")),
            about=about,
        )
    except Mistake as wrong:
        return Said(source, mistake=f"{source}: {wrong}", about=about)


def _together(mode: object) -> bool:
    """A word in 1.36 (`PodGroup`), an object in 1.37 (`all: {}`); else pods may go one by one."""
    return mode == "PodGroup" or "all" in mapping(mode)


def _scheduled(status: Object) -> bool:
    listed = status.get("conditions")
    conditions = [mapping(one) for one in listed] if isinstance(listed, list) else []
    return any(one.get("type") in (SCHEDULED, INITIALLY) and one.get("status") == "True" for one in conditions)
