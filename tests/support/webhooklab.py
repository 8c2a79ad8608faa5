"""The webhook in the process of a test, called by a real API server."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from controllerlab import NATIVE, SPACE, Cluster, as_account
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.controller.admission.manifests import PODS
from forebay.controller.admission.process import Options, Webhook
from forebay.controller.install import parts as install
from forebay.controller.install import rights
from forebay.controller.kinds import RESOURCES
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.errors import Invalid
from forebay.kube.objects import Key
from forebay.kube.resources import MUTATING_WEBHOOKS as MUTATING
from forebay.kube.resources import VALIDATING_WEBHOOKS as VALIDATING
from forebay.kube.transport import Transport

Object = dict[str, Any]
SECRET = Key(SPACE, rights.CERTIFICATES)
LABEL = {"fuse.serverful.fluid.io/inject": "true"}
CONFIGURATIONS = [o for o in install.parts(install.Install())["60-webhook.yaml"] if o["kind"] in (MUTATING.kind, VALIDATING.kind)]


class Called:
    """A webhook in this process, as its service account; `call` has the API server call it, by the installed configurations."""

    def __init__(self, site: ControlPlane, admin: Client) -> None:
        self.admin = admin
        self.transport = Transport(as_account(site.endpoint, rights.WEBHOOK))
        self.webhook = Webhook(self.transport, Options(installation=NATIVE, hosts=("localhost",), drain=0.0))
        self.stopped = False

    def start(self) -> None:
        self.webhook.start()

    def ready(self) -> None:
        until(lambda: not self.webhook.unready(), 120, self.webhook.unready)

    def call(self) -> None:
        """Only the address is another: nobody routes to Services here."""
        for obj in CONFIGURATIONS:
            body = msgspec.json.decode(msgspec.json.encode(obj))
            for hook in body["webhooks"]:
                path = hook["clientConfig"].pop("service")["path"]
                hook["clientConfig"]["url"] = f"https://localhost:{self.webhook.door.port}{path}"
                hook["timeoutSeconds"] = 30  # of a machine that does other things; what is installed is asserted elsewhere
            self.admin.apply(keeping_resource(obj), Key("", rights.WEBHOOK), body, manager="admin")
        self.webhook.keeper.look()
        until(self.is_called, 60, "the API server does not call the webhook")
        before = self.pods_seen()  # the server follows the two configurations each by itself
        until(lambda: self.make_probe() and self.pods_seen() > before, 60, "the API server does not call the webhook about pods")

    def is_called(self) -> bool:
        try:
            self.admin.create(RESOURCES["Dataset"], "default", dataset("probe", "default", "no-scheme"), dry_run=True)
        except Invalid as error:
            return "objects.forebay.io" in str(error)
        return False

    def make_probe(self) -> bool:
        self.admin.create(r.PODS, "default", pod("probe"), dry_run=True)
        return True

    def pods_seen(self) -> float:
        """Pods that the webhook was asked about."""
        (family,) = (one for one in self.webhook._registry.collect() if one.name == "forebay_admission_seconds")
        return sum(s.value for s in family.samples if s.name.endswith("_count") and s.labels["of"] == PODS.strip("/"))

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            assert self.webhook.stop()
            self.transport.close()


def keeping_resource(obj: Object) -> Any:
    return MUTATING if obj["kind"] == MUTATING.kind else VALIDATING


def dataset(name: str, space: str, point: str = "https://h/x/", **mount: Any) -> Object:
    meta = {"name": name, "namespace": space}
    spec = {"mounts": [{"mountPoint": point, "name": "m", **mount}]}
    return {"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset", "metadata": meta, "spec": spec}


def pod(name: str, *claims: str, labels: dict[str, str] | None = None) -> Object:
    volumes = [{"name": f"v{i}", "persistentVolumeClaim": {"claimName": c}} for i, c in enumerate(claims)]
    mounts = [{"name": f"v{i}", "mountPath": f"/{c}"} for i, c in enumerate(claims)]
    spec = {"containers": [{"name": "c", "image": "i", "volumeMounts": mounts}], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or LABEL}, "spec": spec}


def secret_data(cluster: Cluster) -> dict[str, bytes]:
    found = cluster.client.get(r.SECRETS, SECRET, dict[str, Any])
    return {name: base64.b64decode(value) for name, value in (found.get("data") or {}).items()}
