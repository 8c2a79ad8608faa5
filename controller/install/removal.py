"""What takes an installation's datasets away before its parts go: a Job and what it may do. Of the chart it is a hook that runs
before `helm uninstall` deletes anything; beside the plain manifests it is a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.controller.install import rights
from forebay.controller.install.parts import COMPONENT, PART_OF, Install, bound, list_of
from forebay.runtimes.confined import CONFINED
from forebay.runtimes.engine import Object

SECONDS = 240
"""Of the command: less than Helm waits for a hook, so that its last words are the command's."""
HOOK = "helm.sh/hook"
_RBAC = "rbac.authorization.k8s.io"


def wanted(install: Install) -> list[Object]:
    """In the order in which they are applied."""
    name, space = rights.UNINSTALL, install.installation.namespace
    account = {"kind": "ServiceAccount", "name": name, "namespace": space}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta(space)},
        {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": _meta(), "rules": rights.uninstaller()},
        bound(name, name, space, _meta()),
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": _meta(space), "rules": rights.uninstaller_here()},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": _meta(space),
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
            "subjects": [account],
        },
        _job(install),
    ]


def hooks(objects: Sequence[Object]) -> list[Object]:
    """The same for Helm: made before anything is deleted, and gone when it went well. Of one that failed the log is shown, and
    the objects stay until the next try."""
    made = []
    for obj in objects:
        marks = {
            HOOK: "pre-delete",
            "helm.sh/hook-weight": "0" if obj["kind"] == "Job" else "-1",
            "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
            "helm.sh/hook-output-log-policy": "hook-failed",
        }
        made.append({**obj, "metadata": {**obj["metadata"], "annotations": marks}})
    return made


def _meta(namespace: str = "") -> Object:
    labels = {**PART_OF, "app.kubernetes.io/name": rights.UNINSTALL, COMPONENT: "uninstall"}
    return {"name": rights.UNINSTALL, **({"namespace": namespace} if namespace else {}), "labels": labels}


def _job(install: Install) -> Object:
    made, labels = install.installation, {**PART_OF, COMPONENT: "uninstall"}
    container = {
        "name": "uninstall",
        "image": made.image,
        "imagePullPolicy": made.pull_policy,
        "command": ["forebay", "uninstall"],
        "args": [f"--namespace={made.namespace}", f"--timeout={SECONDS}"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            **CONFINED,
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod: Object = {
        "serviceAccountName": rights.UNINSTALL,
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "nodeSelector": install.controller.node_selector,
        "tolerations": list_of(install.controller.tolerations),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}],
        **({"imagePullSecrets": [{"name": name} for name in made.pull_secrets]} if made.pull_secrets else {}),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _meta(made.namespace),
        "spec": {
            "backoffLimit": 0,  # what it refuses it would refuse again
            "activeDeadlineSeconds": SECONDS + 60,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
