"""Devices that are only counted: ResourceSlices as a driver would publish them, classes and claims. Nothing is behind them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from schedulerlab import Site

from forebay.api.kubernetes.resource import ResourceClaim
from forebay.kube.objects import Key
from forebay.kube.resources import DEVICE_CLASSES, RESOURCE_CLAIMS, RESOURCE_SLICES, Resource

TEMPLATES = Resource("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate")
API = "resource.k8s.io/v1"
NUMBERS = itertools.count()


def device(name: str, **more: Any) -> dict[str, Any]:
    """`attributes`: plain values; `capacity`: quantities."""
    kinds = {int: "int", bool: "bool", str: "string"}
    attributes = {key: {kinds[type(value)]: value} for key, value in more.pop("attributes", {}).items()}
    capacity = {key: {"value": value} for key, value in more.pop("capacity", {}).items()}
    return {"name": name, "attributes": attributes, "capacity": capacity, **more}


def exactly(name: str, device_class: str, **more: Any) -> dict[str, Any]:
    """A request."""
    return {"name": name, "exactly": {"deviceClassName": device_class, **more}}


def cel(expression: str) -> list[dict[str, Any]]:
    return [{"cel": {"expression": expression}}]


class CountingDriver:
    """Publishes what it is told to, under a name of its own, with a DeviceClass of that name for all its devices."""

    def __init__(self, site: Site) -> None:
        self.site, self.name = site, f"d{next(NUMBERS)}.example.com"
        self._made: list[tuple[Resource, str]] = []
        self.device_class()

    def device_class(self, name: str = "", expression: str = "", **spec: Any) -> str:
        name = name or self.name
        meant = cel(expression or f"device.driver == '{self.name}'")
        body = {"apiVersion": API, "kind": "DeviceClass", "metadata": {"name": name}, "spec": {"selectors": meant, **spec}}
        self._create(DEVICE_CLASSES, name, body)
        return name

    def publish(self, devices: Iterable[Mapping[str, Any]] = (), *, node: str = "", pool: str = "", **spec: Any) -> str:
        """A slice. `count`, `generation`: of the pool; its nodes are `node` or what `spec` says."""
        pool = pool or node or "everywhere"
        name = f"{self.name}-{next(NUMBERS)}"
        where: dict[str, Any] = {"nodeName": node} if node else {}
        meta = {"name": pool, "generation": spec.pop("generation", 1), "resourceSliceCount": spec.pop("count", 1)}
        content: dict[str, Any] = {"driver": self.name, "pool": meta, **where, **spec}
        if listed := list(devices):
            content["devices"] = listed
        self._create(
            RESOURCE_SLICES, name, {"apiVersion": API, "kind": "ResourceSlice", "metadata": {"name": name}, "spec": content}
        )
        return name

    def withdraw(self, name: str) -> None:
        self.site.client.delete(RESOURCE_SLICES, Key("", name))
        self._made.remove((RESOURCE_SLICES, name))

    def end(self) -> None:
        for resource, name in self._made:
            self.site.client.delete(resource, Key("", name))

    def _create(self, resource: Resource, name: str, body: dict[str, Any]) -> None:
        self.site.client.create(resource, "", body)
        self._made.append((resource, name))


class Claims:
    """Claims and pods that use them, in the site's namespace."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def claim(self, name: str, *requests: Mapping[str, Any], **devices: Any) -> str:
        spec = {"devices": {"requests": list(requests), **devices}}
        body = {"apiVersion": API, "kind": "ResourceClaim", "metadata": {"name": name}, "spec": spec}
        self.site.client.create(RESOURCE_CLAIMS, self.site.namespace, body)
        return name

    def template(self, name: str, *requests: Mapping[str, Any], **devices: Any) -> str:
        spec = {"spec": {"devices": {"requests": list(requests), **devices}}}
        body = {"apiVersion": API, "kind": "ResourceClaimTemplate", "metadata": {"name": name}, "spec": spec}
        self.site.client.create(TEMPLATES, self.site.namespace, body)
        return name

    def pod(self, name: str, *claims: str, template: str = "", **more: Any) -> Key:
        used = [{"name": f"c{at}", "resourceClaimName": claim} for at, claim in enumerate(claims)]
        if template:
            used.append({"name": "t", "resourceClaimTemplateName": template})
        return self.site.pod(name, resourceClaims=used, **more)

    def get(self, name: str) -> ResourceClaim:
        return self.site.client.get(RESOURCE_CLAIMS, Key(self.site.namespace, name), ResourceClaim)

    def all(self) -> list[ResourceClaim]:
        return self.site.client.list_all(RESOURCE_CLAIMS, ResourceClaim, self.site.namespace)[0]

    def of(self, key: Key) -> list[ResourceClaim]:
        """Claims that are reserved for the pod."""
        uid = self.site.get(key).metadata.uid
        return [one for one in self.all() if any(user.uid == uid for user in one.status.reserved_for)]

    def devices(self, *keys: Key) -> list[str]:
        """What these pods hold, as pool/device, sorted."""
        return sorted(
            f"{one.pool}/{one.device}"
            for key in keys
            for claim in self.of(key)
            if claim.status.allocation
            for one in claim.status.allocation.devices.results
        )
