"""The scheduler's account as the install manifests make it: its rights and no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from controlplane import ControlPlane

from forebay.controller.install import parts as install
from forebay.controller.install import scheduler as scheduler_part
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.config import Endpoint
from forebay.kube.objects import Key
from forebay.kube.resources import Resource
from forebay.kube.transport import Transport

RBAC = {
    kind: Resource("rbac.authorization.k8s.io", "v1", f"{kind.lower()}s", kind, namespaced=not kind.startswith("Cluster"))
    for kind in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
}
KINDS = {**RBAC, "ServiceAccount": r.SERVICE_ACCOUNTS, "ConfigMap": r.CONFIG_MAPS, "Deployment": r.DEPLOYMENTS}
SPACE = install.Install().installation.namespace


@contextmanager
def scheduler_account(world: ControlPlane, *, gates: bool = False) -> Iterator[Endpoint]:
    """An endpoint that acts as the account."""
    transport = Transport(world.endpoint)
    client = Client(transport, manager="admin")
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}
    client.apply(r.NAMESPACES, Key("", SPACE), space)
    parts = install.parts(install.Install(scheduler=True, gates=gates))
    for name in ("70-scheduler.yaml", *(["71-scheduler-gates.yaml"] if gates else [])):
        for obj in parts[name]:
            client.apply(KINDS[obj["kind"]], Key(obj["metadata"].get("namespace", ""), obj["metadata"]["name"]), obj)
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{SPACE}", "system:authenticated")
    who = (
        ("Impersonate-User", f"system:serviceaccount:{SPACE}:{scheduler_part.NAME}"),
        *(("Impersonate-Group", g) for g in groups),
    )
    yield msgspec.structs.replace(world.endpoint, impersonate=who)
    transport.close()
