"""What an installation consists of beside the CRDs: namespace, rights, controller, node plugin, CSI driver, our class.

    python -P -m forebay.controller.install deploy            # write deploy/install, remove what is of no part any more
    python -P -m forebay.controller.install deploy --check    # exit code 1 where a file is not what would be written
    python -P -m forebay.controller.install - --image registry.example/forebay:1 --set defaultEngine=native | kubectl apply -f -

Pure but for `main`: equal settings give equal bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from forebay.api.engine_class import engine_class
from forebay.controller import rights, settings
from forebay.controller.admission import manifests
from forebay.controller.comparing import digest
from forebay.runtimes.engine import Installation, Object

FOLDER = "install"
HEADER = "# Written by `python -P -m forebay.controller.install deploy`: change controller/install.py or controller/rights.py.\n"
COMPONENT, PART_OF = "forebay.io/component", {"app.kubernetes.io/part-of": "forebay"}
HEALTH, NODE_HEALTH = 8080, 9809
"""Ports of the controller's and of the node plugin's health doors."""
_SETTINGS = "settings.yaml"


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """`tier_roots`, `host_roots`: directories of nodes below which caches may lie, and `local://` mounts may read."""

    installation: Installation = Installation()
    kubelet: str = "/var/lib/kubelet"
    client_cache: str = "/var/cache/forebay"  # of nodes that read, for what no worker of theirs holds
    tier_roots: tuple[str, ...] = ("/var/cache/forebay",)
    host_roots: tuple[str, ...] = ()
    replicas: int = 2
    webhook: bool = True


def parts(install: Install) -> Mapping[str, list[Object]]:
    """File name -> objects, in the order in which they are applied."""
    return {
        "00-namespace.yaml": [_namespace(install)],
        "10-rights.yaml": _rights(install),
        "20-class.yaml": [engine_class(install.installation.image)],
        "30-csidriver.yaml": [_driver(install)],
        "40-controller.yaml": _controller(install),
        "50-node.yaml": [_node(install), _mounts(install)],
        **({"60-webhook.yaml": _webhook(install)} if install.webhook else {}),
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
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": _meta(name, component),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": space}],
        },
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
        "data": {_SETTINGS: yaml.safe_dump(settings.shown(made), sort_keys=True) if settings.shown(made) else "{}\n"},
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
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/forebay", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    volumes: list[Object] = [{"name": "config", "configMap": {"name": name}}, {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}]
    pod = _restricted(install, name, "controller", container, volumes)
    return [config, _deployment(install, name, "controller", pod, digest(config))]


def _webhook(install: Install) -> list[Object]:
    """A workload of its own: who can be called by anybody in the cluster must not hold the controller's rights."""
    made, space, name = install.installation, install.installation.namespace, rights.WEBHOOK
    labels = {**PART_OF, COMPONENT: "webhook"}
    config = manifests.preferences(space, _meta)
    both = {"preferences": config["data"], "settings": _config(install)["data"]}
    container = manifests.container(made.image, made.pull_policy, _probe, _SETTINGS)
    pod = _restricted(install, name, "webhook", container, manifests.volumes())
    return [
        *_account(space, name, "webhook", rights.webhook()),
        *_own_role(space, name, "webhook", rights.webhook_secret()),
        manifests.secret(space, _meta),
        config,
        manifests.service(space, _meta, labels),
        _deployment(install, name, "webhook", pod, digest(both)),
        *manifests.configurations(space, _meta),
    ]


def _restricted(install: Install, account: str, component: str, container: Object, volumes: list[Object]) -> Object:
    """A pod of the restricted profile, one a node where there is choice."""
    selected = {"labelSelector": {"matchLabels": {**PART_OF, COMPONENT: component}}, "topologyKey": "kubernetes.io/hostname"}
    return {
        "serviceAccountName": account,
        "enableServiceLinks": False,
        "priorityClassName": "system-cluster-critical",
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
                # settings are read at the start: other ones start it again
                "metadata": {
                    "labels": {**labels, "app.kubernetes.io/name": name},
                    "annotations": {"forebay.io/settings": settings_digest},
                },
                "spec": pod,
            },
        },
    }


def _probe(path: str, port: str | int, period: int) -> Object:
    return {"httpGet": {"path": path, "port": port}, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": 3}


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
        *(f"--tier-root={root}" for root in install.tier_roots),
        *(f"--host-path-root={root}" for root in install.host_roots),
        f"--healthz=:{NODE_HEALTH}",
    ]
    container = {
        **_privileged(install, "csi", ["forebay", "csi"], arguments),
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}}],
        "ports": [{"name": "health", "containerPort": NODE_HEALTH, "protocol": "TCP"}],
        "livenessProbe": _probe("/healthz", "health", 20),
        "readinessProbe": _probe("/healthz", "health", 2),
    }
    roots = dict.fromkeys((*install.tier_roots, *install.host_roots), "HostToContainer")
    return _daemons(install, "node", container, roots, {"serviceAccountName": rights.NODE})


def _mounts(install: Install) -> Object:
    container = _privileged(install, "mounts", ["forebay", "mounts"], [f"--kubelet={install.kubelet}"])
    return _daemons(install, "mounts", container, {}, {"automountServiceAccountToken": False})


def _privileged(install: Install, name: str, command: Sequence[str], arguments: Sequence[str]) -> Object:
    return {
        "name": name,
        "image": install.installation.image,
        "imagePullPolicy": install.installation.pull_policy,
        "command": list(command),
        "args": list(arguments),
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": {"privileged": True, "runAsUser": 0},  # mounts that pods of the node see
    }


def _daemons(install: Install, component: str, container: Object, roots: Mapping[str, str], more: Object) -> Object:
    name, labels = f"forebay-{component}", {**PART_OF, COMPONENT: component}
    folders = {install.kubelet: "Bidirectional", install.client_cache: "None", **roots}
    if install.client_cache in roots:
        folders[install.client_cache] = roots[install.client_cache]
    kinds = dict.fromkeys((install.client_cache, *install.tier_roots), "DirectoryOrCreate")
    mounted: list[Object] = []
    volumes: list[Object] = []
    for i, (path, how) in enumerate(folders.items()):
        propagation = {} if how == "None" else {"mountPropagation": how}
        mounted.append({"name": f"host-{i}", "mountPath": path, **propagation})
        volumes.append({"name": f"host-{i}", "hostPath": {"path": path, "type": kinds.get(path, "Directory")}})
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
                    "terminationGracePeriodSeconds": 30,
                    "tolerations": [{"operator": "Exists"}],
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "containers": [{**container, "volumeMounts": mounted}],
                    "volumes": volumes,
                    **_pull_secrets(install.installation),
                },
            },
        },
    }


# --- files ----------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def text(objects: Sequence[Object]) -> str:
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=True)


def files(install: Install) -> Mapping[str, str]:
    return {f"{FOLDER}/{name}": HEADER + text(objects) for name, objects in parts(install).items()}


def stale(folder: Path, install: Install) -> list[str]:
    """Files that differ from what they should be, are missing, or are of no part any more."""
    wanted = files(install)
    found = {f"{FOLDER}/{path.name}": path.read_text() for path in (folder / FOLDER).glob("*.yaml")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -P -m forebay.controller.install", description="Write what an installation needs."
    )
    parser.add_argument("folder", help="the folder that has install/; - for one stream on stdout")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file is stale")
    parser.add_argument("--image", default="", help="the image, as nodes pull it")
    parser.add_argument("--set", dest="fields", action="append", default=[], metavar="FIELD=VALUE", help="a setting (repeatable)")
    parser.add_argument("--settings", type=Path, help="a file of settings")
    parser.add_argument("--kubelet", default=Install().kubelet, help="the kubelet's directory on nodes")
    parser.add_argument("--tier-root", action="append", default=[], help="where caches may lie on nodes (repeatable)")
    parser.add_argument("--host-path-root", action="append", default=[], help="what local:// may read on nodes (repeatable)")
    parser.add_argument("--replicas", type=int, default=Install().replicas, help="of the controller")
    return parser.parse_args(arguments)


def _install(asked: argparse.Namespace) -> Install:
    """Raises SettingsError."""
    fields: dict[str, Any] = {}
    if asked.settings is not None:
        fields = settings.shown(settings.read(asked.settings.read_text(), str(asked.settings)))
    for pair in asked.fields:
        name, sign, value = pair.partition("=")
        if not sign:
            raise settings.SettingsError(f"--set {pair}: write FIELD=VALUE, such as defaultEngine=native")
        fields[name] = yaml.safe_load(value)
    if asked.image:
        fields["image"] = asked.image
    return Install(
        installation=settings.installation(fields, "--set"),
        kubelet=asked.kubelet,
        tier_roots=tuple(asked.tier_root) or Install().tier_roots,
        host_roots=tuple(asked.host_path_root),
        replicas=asked.replicas,
    )


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    asked = _asked(arguments)
    try:
        install = _install(asked)
    except (settings.SettingsError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if asked.folder == "-":
        sys.stdout.write("".join(text(objects) for objects in parts(install).values()))
        return 0
    folder, wanted = Path(asked.folder), files(install)
    names = stale(folder, install)
    if asked.check:
        for name in names:
            sys.stderr.write(
                f"{folder / name}: is not what would be written; run python -P -m forebay.controller.install {folder}\n"
            )
        return 1 if names else 0
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for name in names:
        if name in wanted:
            (folder / name).write_text(wanted[name])
        else:
            (folder / name).unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
