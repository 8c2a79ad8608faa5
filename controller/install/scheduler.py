"""What an installation of the scheduler consists of: its own account with the least that it works with, settings, Deployment.

Pure. Like all of install.py it must hold for the chart's placeholders: fields are put where they go, neither compared nor cut.
"""

from __future__ import annotations

from typing import Any

from forebay.runtimes.confined import CONFINED
from forebay.runtimes.engine import Installation, Object

NAME = "forebay-scheduler"
"""Of account, roles, lease, settings and Deployment."""
GATES = "forebay-scheduler-gates"
COMPONENT = {"app.kubernetes.io/part-of": "forebay", "forebay.io/component": "scheduler"}
LOOK = ["get", "list", "watch"]
WHOLE = ("scheduling.sigs.k8s.io", "scheduling.volcano.sh")
"""Groups whose PodGroups mostly have no status subresource: to write their status is to patch them."""
HEALTH = 8080
SETTINGS = """\
# docs/scheduler.md lists the fields. Read again when it changes; a mistake changes nothing and is said in an Event.
schedulerName: forebay
"""


def rules() -> list[Object]:
    """In the whole cluster. It binds and deletes pods and writes their status; it makes none and changes none otherwise. Volumes
    and claims are patched for those that wait for their first pod."""
    return [
        _rule("", ["namespaces", "nodes", "pods"], LOOK),
        _rule("", ["pods/binding"], ["create"]),
        _rule("", ["pods/status"], ["patch"]),
        _rule("", ["pods"], ["delete"]),  # preemption
        _rule("", ["persistentvolumeclaims", "persistentvolumes"], [*LOOK, "patch"]),
        _rule("storage.k8s.io", ["csidrivers", "csinodes", "csistoragecapacities", "storageclasses"], LOOK),
        _rule("resource.k8s.io", ["deviceclasses", "resourceslices"], LOOK),
        _rule("resource.k8s.io", ["resourceclaims"], [*LOOK, "patch"]),  # the finalizer that protects an allocated claim
        _rule("resource.k8s.io", ["resourceclaims/status", "resourceclaims/binding"], ["patch"]),
        _rule("scheduling.koordinator.sh", ["devices"], LOOK),
        _rule("kueue.x-k8s.io", ["resourceflavors"], LOOK),  # nodes of an ElasticQuotaTree's queues
        _rule("batch", ["jobs"], LOOK),  # until when they may run
        _rule("policy", ["poddisruptionbudgets"], LOOK),
        _rule("scheduling.sigs.k8s.io", ["elasticquotas", "elasticquotatrees", "podgroups"], LOOK),
        _rule("scheduling.x-k8s.io", ["elasticquotas", "podgroups"], LOOK),
        _rule("scheduling.volcano.sh", ["podgroups"], LOOK),
        _rule("scheduling.k8s.io", ["podgroups", "priorityclasses"], LOOK),
        _rule("scheduling.k8s.io", ["podgroups/status"], ["patch"]),
        _rule("scheduling.x-k8s.io", ["podgroups/status"], ["patch"]),
        *(_rule(group, ["podgroups", "podgroups/status"], ["patch"]) for group in WHOLE),
        _rule("forebay.io", ["nodecaches"], LOOK),
        _rule("forebay.io", ["datasethints"], [*LOOK, "patch"]),  # which nodes should load: a wish, not the status
        _rule("events.k8s.io", ["events"], ["create", "patch"]),
    ]


def lease_rules() -> list[Object]:
    """In its own namespace."""
    group = "coordination.k8s.io"
    return [_rule(group, ["leases"], ["create"]), {**_rule(group, ["leases"], ["get", "patch"]), "resourceNames": [NAME]}]


def gate_rules() -> list[Object]:
    """For pods of other schedulers: they are pinned and our gate is taken away. Apart, because it is a large right."""
    return [_rule("", ["pods"], ["patch"])]


def objects(made: Installation, pull_secrets: Object, replicas: Any) -> list[Object]:
    """Everything but the right to write pods."""
    space = made.namespace
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(NAME, space), "data": {"scheduler.yaml": SETTINGS}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta(NAME, space)}
    own = [
        _role("Role", NAME, lease_rules(), space),
        _binding("RoleBinding", "Role", NAME, space, space),
    ]
    return [account, *_everywhere(NAME, rules(), space), *own, config, _deployment(made, pull_secrets, replicas)]


def gates(made: Installation) -> list[Object]:
    """The right to write pods, for gates mode."""
    return _everywhere(GATES, gate_rules(), made.namespace)


def _deployment(made: Installation, pull_secrets: Object, replicas: Any) -> Object:
    container = {
        "name": "scheduler",
        "image": made.image,
        "imagePullPolicy": made.pull_policy,
        "command": ["forebay", "scheduler", "run"],
        "args": ["--config=/etc/forebay/scheduler.yaml", f"--namespace={made.namespace}", f"--listen=:{HEALTH}"],
        "ports": [{"name": "health", "containerPort": HEALTH, "protocol": "TCP"}],
        "livenessProbe": _probe("/healthz", 20),
        "readinessProbe": _probe("/readyz", 5),
        "resources": {"requests": {"cpu": "200m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": {
            **CONFINED,
        },
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/forebay", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    term = {"labelSelector": {"matchLabels": COMPONENT}, "topologyKey": "kubernetes.io/hostname"}
    apart = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
    pod: Object = {
        "serviceAccountName": NAME,
        "enableServiceLinks": False,
        "priorityClassName": "system-cluster-critical",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {"podAntiAffinity": apart},
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": NAME}}, {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}],
        **pull_secrets,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(NAME, made.namespace),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": COMPONENT},
            "template": {"metadata": {"labels": {**COMPONENT, "app.kubernetes.io/name": NAME}}, "spec": pod},
        },
    }


def _everywhere(name: str, granted: list[Object], space: str) -> list[Object]:
    return [_role("ClusterRole", name, granted), _binding("ClusterRoleBinding", "ClusterRole", name, space)]


def _role(kind: str, name: str, granted: list[Object], space: str = "") -> Object:
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": _meta(name, space), "rules": granted}


def _binding(kind: str, role: str, name: str, account_space: str, space: str = "") -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": _meta(name, space),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": account_space}],
    }


def _rule(group: str, resources: list[str], verbs: list[str]) -> Object:
    return {"apiGroups": [group], "resources": resources, "verbs": list(verbs)}


def _meta(name: str, space: str = "") -> Object:
    labels = {**COMPONENT, "app.kubernetes.io/name": name}
    return {"name": name, **({"namespace": space} if space else {}), "labels": labels}


def _probe(path: str, period: int) -> Object:
    return {"httpGet": {"path": path, "port": "health"}, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": 3}
