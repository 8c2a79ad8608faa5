"""What an installation consists of beside the CRDs: namespace, rights, controller, node plugin, CSI driver, our class.

Pure: equal settings give equal bytes. The Helm chart is written from the same functions (chart.py): what they
do with a field of `Install` must hold for a placeholder too. Put it into an object or into a text as it is; neither compare
it nor take it apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import yaml

from forebay.api.fluid.engine_class import engine_class
from forebay.controller import settings
from forebay.controller.admission import manifests
from forebay.controller.comparing import digest
from forebay.controller.install import node_policy, rights
from forebay.controller.install import scheduler as scheduler_part
from forebay.runtimes.confined import CONFINED
from forebay.runtimes.engine import Installation, Object

FOLDER = "install"
HEADER = "# Written by `python -P -m forebay.controller.install.files deploy` from controller/install/: change that.\n"
COMPONENT, PART_OF = "forebay.io/component", {"app.kubernetes.io/part-of": "forebay"}
HEALTH, NODE_HEALTH = 8080, 9809
"""Ports of the controller's and of the node plugin's health doors."""
_SETTINGS = "settings.yaml"


class Workload(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Where pods of a component run, and what they ask for."""

    resources: Object = {}
    node_selector: dict[str, str] = {}
    tolerations: tuple[Object, ...] = ()


CONTROLLER = Workload(resources={"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}})
EVERY_NODE = Workload(
    resources={"requests": {"cpu": "50m", "memory": "64Mi"}},  # of each of the two containers
    node_selector={"kubernetes.io/os": "linux"},
    tolerations=({"operator": "Exists"},),
)


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """`tier_roots`, `host_roots`: directories of nodes below which caches may lie beside `client_cache`, and `local://` mounts
    may read. A field that is a bool is a switch of a part, and a value of the chart by the same name."""

    installation: Installation = Installation()
    kubelet: str = "/var/lib/kubelet"
    client_cache: str = "/var/cache/forebay"  # of nodes that read, for what no worker of theirs holds; workers' caches too
    client_quota: str = "10Gi"  # of one dataset there
    tier_roots: tuple[str, ...] = ()
    host_roots: tuple[str, ...] = ()
    replicas: int = 2
    controller: Workload = CONTROLLER
    node: Workload = EVERY_NODE
    scheduler: bool = False
    gates: bool = False
    webhook: bool = True

    def settings(self) -> str:
        """The controller's file."""
        shown = settings.shown(self.installation)
        return yaml.safe_dump(shown, sort_keys=True) if shown else "{}\n"

    def settings_digest(self, beside: str = "") -> str:
        """What starts a process again when its file changes, which is read at the start; `beside` stands for others."""
        return hashlib.sha256(f"{self.settings()}{beside}".encode()).hexdigest()

    def volume(self, path: str) -> str:
        """The name of the volume that has a directory of nodes: by its path, so that adding one renames no other."""
        return f"host-{hashlib.sha256(path.encode()).hexdigest()[:10]}"


def parts(install: Install) -> Mapping[str, list[Object]]:
    """File name -> objects, in the order in which they are applied."""
    space = install.installation.namespace
    return {
        "00-namespace.yaml": [_namespace(install)],
        "10-rights.yaml": _rights(install),
        **({"12-node-labels.yaml": _node_labels(space)} if install.installation.fluid_node_labels else {}),
        "20-class.yaml": [engine_class(install.installation.image)],
        "30-csidriver.yaml": [_driver(install)],
        "35-nodecaches.yaml": node_policy.policy(space, PART_OF),
        "40-controller.yaml": _controller(install),
        "50-node.yaml": [_node(install), _mounts(install)],
        **({"60-webhook.yaml": _webhook(install)} if install.webhook else {}),
        **({"70-scheduler.yaml": _scheduler(install)} if install.scheduler else {}),
        **({"71-scheduler-gates.yaml": scheduler_part.gates(install.installation)} if install.gates else {}),
    }


# --- objects --------------------------------------------------------------------------------------------------------


def _meta(name: str, component: str, namespace: str = "") -> Object:
    labels = {**PART_OF, "app.kubernetes.io/name": name, COMPONENT: component}
    return {"name": name, **({"namespace": namespace} if namespace else {}), "labels": labels}


def _namespace(install: Install) -> Object:
    labels = {**PART_OF, "pod-security.kubernetes.io/enforce": "privileged"}  # mounts on nodes; nothing else runs here
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": install.installation.namespace, "labels": labels}}


def _rights(install: Install) -> list[Object]:
    space = install.installation.namespace
    return [
        *_account(space, rights.CONTROLLER, "controller", rights.controller()),
        *_account(space, rights.NODE, "node", rights.node()),
        *_own_role(space, rights.CONTROLLER, "controller", rights.controller_lease()),
    ]


def _node_labels(space: str) -> list[Object]:
    """Of the controller, where they are wanted."""
    role = {"kind": "ClusterRole", "metadata": _meta(rights.NODE_LABELS, "controller"), "rules": rights.node_labels()}
    return [
        {"apiVersion": "rbac.authorization.k8s.io/v1", **role},
        bound(rights.NODE_LABELS, rights.CONTROLLER, space, _meta(rights.NODE_LABELS, "controller")),
    ]


def bound(role: str, account: str, space: str, meta: Object) -> Object:
    """A cluster role, to an account."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": meta,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": space}],
    }


def _account(space: str, name: str, component: str, rules: list[Object]) -> list[Object]:
    """A service account with rights in the whole cluster."""
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta(name, component, space)},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": _meta(name, component),
            "rules": rules,
        },
        bound(name, name, space, _meta(name, component)),
    ]


def _own_role(space: str, name: str, component: str, rules: list[Object]) -> list[Object]:
    """Further rights of an account in its own namespace."""
    return [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": _meta(name, component, space),
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": _meta(name, component, space),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": space}],
        },
    ]


def _driver(install: Install) -> Object:
    """Inline volumes of workers, and claims of readers."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": install.installation.driver, "labels": PART_OF},
        "spec": {
            "attachRequired": False,
            "podInfoOnMount": True,
            "volumeLifecycleModes": ["Persistent", "Ephemeral"],
            "fsGroupPolicy": "None",
            "seLinuxMount": False,
            "storageCapacity": False,
        },
    }


def _config(install: Install) -> Object:
    """The settings of the installation, for controller and webhook."""
    made = install.installation
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _meta(rights.CONTROLLER, "controller", made.namespace),
        "data": {_SETTINGS: install.settings()},
    }


def _controller(install: Install) -> list[Object]:
    made, name = install.installation, rights.CONTROLLER
    config = _config(install)
    container = {
        "name": "controller",
        "image": made.image,
        "imagePullPolicy": made.pull_policy,
        "command": ["forebay", "controller"],
        "args": [f"--config=/etc/forebay/{_SETTINGS}", f"--listen=:{HEALTH}"],
        "ports": [{"name": "health", "containerPort": HEALTH, "protocol": "TCP"}],
        "livenessProbe": _probe("/healthz", "health", 20),
        "readinessProbe": _probe("/readyz", "health", 5),
        "resources": install.controller.resources,
        "securityContext": {
            **CONFINED,
        },
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/forebay", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    volumes: list[Object] = [{"name": "config", "configMap": {"name": name}}, {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}]
    pod = _restricted(install, name, "controller", container, volumes)
    return [config, _deployment(install, name, "controller", pod, install.settings_digest())]


def _webhook(install: Install) -> list[Object]:
    """A workload of its own: who can be called by anybody in the cluster must not hold the controller's rights."""
    made, space, name = install.installation, install.installation.namespace, rights.WEBHOOK
    labels = {**PART_OF, COMPONENT: "webhook"}
    config = manifests.preferences(space, _meta)
    container = manifests.container(made.image, made.pull_policy, _probe, _SETTINGS)
    pod = _restricted(install, name, "webhook", container, manifests.volumes())
    return [
        *_account(space, name, "webhook", rights.webhook()),
        *_own_role(space, name, "webhook", rights.webhook_secret()),
        manifests.secret(space, _meta),
        config,
        manifests.service(space, _meta, labels),
        _deployment(install, name, "webhook", pod, install.settings_digest(digest(config["data"]))),
        *manifests.configurations(space, _meta),
    ]


def _restricted(install: Install, account: str, component: str, container: Object, volumes: list[Object]) -> Object:
    """A pod of the restricted profile, one a node where there is choice."""
    selected = {"labelSelector": {"matchLabels": {**PART_OF, COMPONENT: component}}, "topologyKey": "kubernetes.io/hostname"}
    return {
        "serviceAccountName": account,
        "enableServiceLinks": False,
        "priorityClassName": "system-cluster-critical",
        **_place(install.controller),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": selected}],
            }
        },
        "containers": [container],
        "volumes": volumes,
        **_pull_secrets(install.installation),
    }


def _deployment(install: Install, name: str, component: str, pod: Object, settings_digest: str) -> Object:
    labels = {**PART_OF, COMPONENT: component}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(name, component, install.installation.namespace),
        "spec": {
            "replicas": install.replicas,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {
                    "labels": {**labels, "app.kubernetes.io/name": name},
                    "annotations": {"forebay.io/settings": settings_digest},
                },
                "spec": pod,
            },
        },
    }


def _scheduler(install: Install) -> list[Object]:
    return scheduler_part.objects(install.installation, _pull_secrets(install.installation), install.replicas)


def _probe(path: str, port: str | int, period: int) -> Object:
    return {"httpGet": {"path": path, "port": port}, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": 3}


def _place(workload: Workload) -> Object:
    return {"nodeSelector": workload.node_selector, "tolerations": list_of(workload.tolerations)}


def list_of(values: Any) -> Any:
    """A tuple as YAML has it; a placeholder for one stays."""
    return list(values) if isinstance(values, tuple) else values


def _pull_secrets(made: Installation) -> Object:
    return {"imagePullSecrets": [{"name": name} for name in made.pull_secrets]} if made.pull_secrets else {}


def _node(install: Install) -> Object:
    """The CSI node plugin. What holds the mounts' device descriptors is a DaemonSet of its own: replacing one of the two
    leaves the descriptors with the other."""
    socket = f"{install.kubelet}/plugins/{install.installation.driver}"
    arguments = [
        f"--endpoint=unix://{socket}/csi.sock",
        "--node=$(NODE_NAME)",
        f"--kubelet={install.kubelet}",
        f"--mounts={socket}/mounts.sock",
        f"--cache={install.client_cache}",
        f"--quota={install.client_quota}",
        *(f"--tier-root={root}" for root in (install.client_cache, *install.tier_roots)),
        *(f"--host-path-root={root}" for root in install.host_roots),
        f"--healthz=:{NODE_HEALTH}",
    ]
    container = {
        **_privileged(install, "csi", ["forebay", "csi"], arguments),
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}}],
        "ports": [{"name": "health", "containerPort": NODE_HEALTH, "protocol": "TCP"}],
        "livenessProbe": _probe("/healthz", "health", 20),
        "readinessProbe": _probe("/readyz", "health", 2),
    }
    more = {"serviceAccountName": rights.NODE}
    shown = _Shown("HostToContainer", install.tier_roots, install.host_roots)
    return _daemons(install, "node", container, more, shown)


def _mounts(install: Install) -> Object:
    container = _privileged(install, "mounts", ["forebay", "mounts"], [f"--kubelet={install.kubelet}"])
    return _daemons(install, "mounts", container, {"automountServiceAccountToken": False}, _Shown())


def _privileged(install: Install, name: str, command: Sequence[str], arguments: Sequence[str]) -> Object:
    return {
        "name": name,
        "image": install.installation.image,
        "imagePullPolicy": install.installation.pull_policy,
        "command": list(command),
        "args": list(arguments),
        "resources": install.node.resources,
        "securityContext": {"privileged": True, "runAsUser": 0},  # mounts that pods of the node see
    }


class _Shown(NamedTuple):
    """Directories of nodes beside the kubelet's: caches (made where they are missing, beside the one of clients) and hosts'."""

    propagation: str = ""
    caches: Sequence[str] = ()
    hosts: Sequence[str] = ()


def _daemons(install: Install, component: str, container: Object, more: Object, shown: _Shown) -> Object:
    name, labels = f"forebay-{component}", {**PART_OF, COMPONENT: component}
    how = {"mountPropagation": shown.propagation} if shown.propagation else {}
    made = (install.client_cache, *shown.caches)
    mounted: list[Object] = [
        {"name": install.volume(install.kubelet), "mountPath": install.kubelet, "mountPropagation": "Bidirectional"},
        *({"name": install.volume(path), "mountPath": path, **how} for path in (*made, *shown.hosts)),
    ]
    volumes: list[Object] = [
        _of_host(install, install.kubelet, "Directory"),
        *(_of_host(install, path, "DirectoryOrCreate") for path in made),
        *(_of_host(install, path, "Directory") for path in shown.hosts),
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": _meta(name, component, install.installation.namespace),
        "spec": {
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": {**labels, "app.kubernetes.io/name": name}},
                "spec": {
                    **more,
                    "enableServiceLinks": False,
                    "priorityClassName": "system-node-critical",
                    "terminationGracePeriodSeconds": 60,  # `fuse.csi.handover.PATIENCE`, and what it takes to end then
                    **_place(install.node),
                    "containers": [{**container, "volumeMounts": mounted}],
                    "volumes": volumes,
                    **_pull_secrets(install.installation),
                },
            },
        },
    }


def _of_host(install: Install, path: str, kind: str) -> Object:
    return {"name": install.volume(path), "hostPath": {"path": path, "type": kind}}


# --- files ----------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def text(objects: Sequence[Object]) -> str:
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=True)
