"""The workers of a dataset: a StatefulSet of pods that need no privilege, and what stands around it.

A pod gets from its node, through our inline CSI volume, what a restricted pod may not take for itself: the tier directories,
the directory of its door, the member list. It has no API access, and credentials only as files. Attributes of the
inline volume can be written by whoever may make pods there; the node must hold them against the pod's own namespace.
"""

from __future__ import annotations

import msgspec

from forebay.api import podconfig as conf
from forebay.api.fluid import names as fluid
from forebay.runtimes.confined import CONFINED
from forebay.runtimes.engine import LEAVING, Installation, Object
from forebay.runtimes.forebay.names import COMPONENT, DATASET, WORKER, Names
from forebay.runtimes.forebay.settings import Settings
from forebay.runtimes.forebay.sources import Sources

PART = "forebay.io/part"
ATTRIBUTE_MAX, ATTRIBUTES_MAX = 128, 4096
"""Bytes of one attribute and of all of them: limits of the CSI specification."""
FIXED = "forebay.io/fixed-config"
"""Annotation of the pods: a change of what a running worker cannot take over changes it, and so starts them again."""
_HOSTNAME = "kubernetes.io/hostname"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the objects are made from."""

    names: Names
    owner: Object  # owner reference of each object
    dataset: Object  # owner reference of its secrets, which outlive a runtime
    settings: Settings
    sources: Sources
    config: conf.Config
    installation: Installation


def meta(job: Job, name: str, **more: object) -> Object:
    found: Object = {
        "name": name,
        "namespace": job.names.namespace,
        "labels": dict(sorted(job.names.labels.items())),
        "ownerReferences": [job.owner],
    }
    return {**found, **more}


def worker_labels(job: Job) -> dict[str, str]:
    """Ours, and those by which Fluid's users find worker pods. What the runtime asks for never overrides them."""
    names, settings = job.names, job.settings
    type_ = fluid.TYPES.get(settings.kind, "cache")
    fluids = {
        fluid.DATASET: names.id,
        fluid.PLACEMENT: "Shared" if settings.shared else "Exclusive",
        fluid.MANAGED_BY: "fluid",
        "app.kubernetes.io/name": "forebay-worker",
        "app": type_,
        "release": names.name,
        "heritage": "fluid",
        "role": f"{type_}-worker",
    }
    if settings.kind in ("", "CacheRuntime"):
        fluids["cacheruntime.fluid.io/name"] = names.name
        fluids["cacheruntime.fluid.io/component-name"] = names.workers
    return dict(sorted({**settings.labels, **names.labels, **fluids, **names.selector}.items()))


def stateful_set(job: Job, replicas: int) -> Object:
    names, settings = job.names, job.settings
    labels = worker_labels(job)
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": meta(job, names.workers, labels=labels),
        "spec": {
            "replicas": replicas,
            "serviceName": names.service,
            "podManagementPolicy": "Parallel",  # workers find each other; none waits for another
            "revisionHistoryLimit": 2,
            "updateStrategy": {"type": "RollingUpdate"},
            "selector": {"matchLabels": dict(sorted(names.selector.items()))},
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": dict(sorted({**settings.annotations, **_cached(job), FIXED: conf.fixed(job.config)}.items())),
                },
                "spec": _pod(job),
            },
        },
    }


def _cached(job: Job) -> dict[str, str]:
    """What quotas count of a worker: the bytes that its tiers may hold; a tier without a bound has no number."""
    total = sum(tier.quota for tier in job.settings.tiers)
    return {fluid.CACHE_BYTES: str(total)} if total else {}


def _pod(job: Job) -> Object:
    settings, installation = job.settings, job.installation
    user = {} if installation.uid is None else dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), installation.uid)
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.grace,
        "securityContext": {"runAsNonRoot": True, **user, "seccompProfile": {"type": "RuntimeDefault"}},
        "affinity": _affinity(job),
        "containers": [_container(job)],
        "volumes": _volumes(job),
    }
    if settings.node_selector:
        spec["nodeSelector"] = dict(sorted(settings.node_selector.items()))
    if settings.tolerations:
        spec["tolerations"] = list(settings.tolerations)
    if settings.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    if installation.priority_class:
        spec["priorityClassName"] = installation.priority_class
    return spec


def _container(job: Job) -> Object:
    installation = job.installation
    mounts: list[Object] = [
        {"name": "state", "mountPath": conf.STATE_DIR},
        {"name": "config", "mountPath": conf.CONFIG_DIR, "readOnly": True},
        {"name": "secret", "mountPath": conf.SECRET_FILE.rpartition("/")[0], "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    mounts.append({"name": "orders", "mountPath": conf.ORDERS_DIR, "readOnly": True})
    if job.sources.refs:
        mounts.append({"name": "credentials", "mountPath": conf.CREDENTIALS_DIR, "readOnly": True})
    for i, (path, read_only) in enumerate(job.sources.hosts):
        mounts.append({"name": f"host-{i}", "mountPath": conf.HOST_DIR + path, "readOnly": read_only})
    for i, claim in enumerate(job.sources.claims):
        mounts.append({"name": f"claim-{i}", "mountPath": f"{conf.CLAIM_DIR}/{claim}", "readOnly": True})
    return {
        "name": WORKER,
        "image": installation.image,
        "imagePullPolicy": installation.pull_policy,
        "command": ["forebay", "worker"],
        "args": [
            "run",
            f"--config={conf.CONFIG_DIR}/{conf.FILE}",
            f"--credentials={conf.CREDENTIALS_DIR}",
            f"--run-dir={conf.STATE_DIR}/run",
            "--address=$(POD_IP)",
            f"--data-port={installation.data_port}",
            f"--control-port={installation.control_port}",
            "--node=$(NODE_NAME)",
        ],
        "env": [
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
        ],
        "ports": ports(installation, "containerPort"),
        "resources": job.settings.resources,
        # The port listens once index and tiers are open. Kubelet's probe proves no more, and needs no secret for it.
        "readinessProbe": {"tcpSocket": {"port": "data"}, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3},
        # Drains where the node is being emptied or the worker is taken away for good, which the node's plugin states in the
        # member directory; returns at once otherwise. Scaling in waits for the drain before it takes the pod (docs/engines.md).
        "lifecycle": {
            "preStop": {"exec": {"command": ["forebay", "worker", "drain", "--if-leaving", f"--run-dir={conf.STATE_DIR}/run"]}}
        },
        "securityContext": {
            **CONFINED,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def ports(installation: Installation, field: str) -> list[Object]:
    listed: list[Object] = []
    for name, number in (("data", installation.data_port), ("control", installation.control_port)):
        target = {"targetPort": name} if field == "port" else {}
        listed.append({"name": name, field: number, "protocol": "TCP", **target})
    return listed


def state_attributes(job: Job) -> dict[str, str]:
    """What the node makes ready for the pod. `tier-<i>`: medium, quota in bytes (0 = none), directory (none = the node's own)."""
    tiers = {f"forebay.io/tier-{i}": f"{t.medium} {t.quota} {t.path}".rstrip() for i, t in enumerate(job.settings.tiers)}
    return {
        DATASET: job.names.name,
        PART: WORKER,
        "forebay.io/service": job.names.service,
        "forebay.io/uid": "" if job.installation.uid is None else str(job.installation.uid),
        **tiers,
    }


def too_long(job: Job) -> str:
    """What of the attributes CSI does not let through, "" where all fits."""
    attributes = [state_attributes(job), *({"forebay.io/path": path} for path, _ in job.sources.hosts)]
    for found in attributes:
        for value in found.values():
            if len(value.encode()) > ATTRIBUTE_MAX:
                which = value.rpartition(" ")[2]
                return f"directory {which!r} makes a volume attribute of more than {ATTRIBUTE_MAX} bytes; shorten its path"
        if sum(len(k.encode()) + len(v.encode()) for k, v in found.items()) > ATTRIBUTES_MAX:
            return f"tier directories make more than {ATTRIBUTES_MAX} bytes of volume attributes; use fewer or shorter ones"
    return ""


def _volumes(job: Job) -> list[Object]:
    driver = job.installation.driver
    secret: Object = {"secretName": job.names.secret, "defaultMode": 0o400}
    volumes: list[Object] = [
        {
            "name": "state",
            "csi": {"driver": driver, "readOnly": False, "volumeAttributes": dict(sorted(state_attributes(job).items()))},
        },
        {"name": "config", "configMap": {"name": job.names.config, "defaultMode": 0o444}},
        {"name": "secret", "secret": {**secret, "items": [{"key": conf.SECRET_KEY, "path": conf.SECRET_KEY}]}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": "orders", "downwardAPI": {"defaultMode": 0o444, "items": [_order(conf.LEAVING)]}},
    ]
    if job.sources.refs:
        volumes.append({"name": "credentials", "projected": {"defaultMode": 0o400, "sources": _credentials(job)}})
    for i, (path, read_only) in enumerate(job.sources.hosts):
        attributes = {DATASET: job.names.name, PART: "host", "forebay.io/path": path}
        volumes.append({"name": f"host-{i}", "csi": {"driver": driver, "readOnly": read_only, "volumeAttributes": attributes}})
    for i, claim in enumerate(job.sources.claims):
        volumes.append({"name": f"claim-{i}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return volumes


def _order(file: str) -> Object:
    """An annotation of the pod as a file in it: what the controller tells a worker, which it has no other way to."""
    return {"path": file, "fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{LEAVING}']"}}


def _credentials(job: Job) -> list[Object]:
    """One source for each Secret and necessity; nothing but the keys that are needed."""
    grouped: dict[tuple[str, bool], list[str]] = {}
    for ref in job.sources.refs:
        grouped.setdefault((ref.secret, ref.optional), []).append(ref.key)
    sources: list[Object] = []
    for (secret, optional), keys in sorted(grouped.items()):
        source: Object = {"name": secret, "items": [{"key": key, "path": f"{secret}/{key}"} for key in sorted(keys)]}
        sources.append({"secret": {**source, "optional": True} if optional else source})
    return sources


def _affinity(job: Job) -> Object:
    """Exclusive: no other dataset's worker of the namespace on the node, as in Fluid. Shared: others are avoided.

    Two workers of one dataset never share a node, whatever the placement: they would hold one cache directory.
    """
    names, settings = job.names, job.settings

    def other(*expressions: Object) -> Object:
        return {"labelSelector": {"matchExpressions": list(expressions)}, "topologyKey": _HOSTNAME}

    own = other(
        {"key": DATASET, "operator": "In", "values": [names.name]}, {"key": COMPONENT, "operator": "In", "values": [WORKER]}
    )
    any_ = other({"key": fluid.DATASET, "operator": "Exists"})
    exclusive = other({"key": fluid.PLACEMENT, "operator": "In", "values": ["Exclusive"]})
    apart: Object = {"requiredDuringSchedulingIgnoredDuringExecution": [exclusive, own] if settings.shared else [any_]}
    if settings.shared:
        apart["preferredDuringSchedulingIgnoredDuringExecution"] = [{"podAffinityTerm": any_, "weight": 50}]
    shown = {"key": fluid.node_label("f", names.namespace, names.name, names.uid), "operator": "In", "values": ["true"]}
    node: Object = {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"preference": {"matchExpressions": [shown]}, "weight": 100}]
    }
    if settings.affinity:
        node["requiredDuringSchedulingIgnoredDuringExecution"] = settings.affinity
    return {"nodeAffinity": node, "podAntiAffinity": apart}
