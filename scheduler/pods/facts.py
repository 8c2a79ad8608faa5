"""What one pod asks and where it may go, read once for all pods that are alike.

Pods of one Deployment or one gang differ in name, UID, node and in things that decide nothing. Reading amounts and class out of
the typed object costs some 100 us, writing down what decides them 4 us: the bytes of that are the key. At a restart with 150,000
pods of 2,000 templates nearly all reading is a look-up.
"""

from __future__ import annotations

import msgspec

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.devices.ask import PodAsk
from forebay.scheduler.pods.amounts import pod_amounts
from forebay.scheduler.pods.classes import PodClass, read_claims, read_devices, read_pod
from forebay.scheduler.pods.request import Request
from forebay.scheduler.quota.amounts import Amounts

MOST = 20_000
"""Different pods that are remembered, some 3 kB each; then all are forgotten and read again when they come."""

_encode = msgspec.msgpack.Encoder().encode


class Facts:
    """Of all pods with one key. `request` is what the cluster made of it, good for its `generation`; None before.

    `asks`: what they ask of devices, by the annotations that have a say in it.
    """

    __slots__ = ("amounts", "asks", "generation", "key", "request")

    def __init__(self, amounts: Amounts, key: PodClass) -> None:
        self.amounts, self.key = amounts, key
        self.request: Request | None = None
        self.generation = 0
        self.asks: dict[tuple[str, ...], PodAsk | None] = {}


class Reader:
    """Invariant: `read` gives what `pod_amounts` and `read_pod` give."""

    def __init__(self) -> None:
        self._known: dict[bytes, Facts] = {}
        self._latest: tuple[Pod, Facts] | None = None  # one decision asks several times; pods are frozen

    def read(self, pod: Pod) -> Facts:
        """The facts of a pod. Raises `QuantityError`, of which nothing is remembered."""
        if self._latest is not None and self._latest[0] is pod:
            return self._latest[1]
        key = _key(pod)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MOST:
                self._known.clear()
            found = self._known[key] = Facts(pod_amounts(pod), read_pod(pod))
        self._latest = pod, found
        return found

    def forget(self) -> None:
        """Requests that were made are good no more."""
        self._known.clear()
        self._latest = None


def _key(pod: Pod) -> bytes:
    """Everything that amounts and class are read from, and nothing that differs between pods that are alike."""
    meta, spec, status = pod.metadata, pod.spec, pod.status
    given: object = None
    if status.container_statuses or status.init_container_statuses:  # a resize in place
        given = status.container_statuses, status.init_container_statuses, status.conditions
    return _encode(
        (
            meta.namespace,
            meta.labels,
            meta.deletion_timestamp is not None,
            spec.containers,
            spec.init_containers,
            spec.overhead,
            spec.resources,
            spec.node_selector,
            spec.affinity,
            spec.tolerations,
            spec.topology_spread_constraints,
            spec.priority,
            read_claims(pod) if spec.volumes else None,
            read_devices(pod) if spec.resource_claims else None,
            given,
        )
    )
