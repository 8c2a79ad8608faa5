"""Writes the status of a PodGroup. Decides nothing."""

from __future__ import annotations

from forebay.kube.client import Client
from forebay.kube.errors import NotFound
from forebay.kube.objects import Key
from forebay.kube.resources import Resource
from forebay.scheduler.groups.native import GROUP
from forebay.scheduler.live.instructions import Status

WHOLE = ("scheduling.sigs.k8s.io", "scheduling.volcano.sh")
"""Groups of which most definitions have no status subresource: the object itself is patched then, and of it the status alone."""


class StatusWriter:
    """One thread's."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._whole = set[str]()  # api versions without the subresource, as far as is known

    def write(self, one: Status) -> None:
        """Raises Conflict where the object is another by now, NotFound where it is gone, and what the client raises."""
        group, _, version = one.api_version.partition("/")
        resource, key = Resource(group, version, "podgroups", "PodGroup"), Key(one.namespace, one.name)
        body = {"metadata": {"uid": one.uid, "resourceVersion": one.version}, "status": one.status}
        if group == GROUP:
            self._client.strategic(resource, key, body, sub="status")  # conditions are merged by their type
            return
        if one.api_version not in self._whole:
            try:
                self._client.merge(resource, key, body, sub="status")
                return
            except NotFound:
                if group not in WHOLE:
                    raise
        self._client.merge(resource, key, body)
        self._whole.add(one.api_version)
