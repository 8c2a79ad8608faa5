"""Claims on devices, as far as they are written: a pod's claims are allocated and reserved for it before its binding, and given
back where that comes to nothing.

Each write names the version that it was made from, so whoever else allocates the same claim is noticed. Whatever the server
answers goes to the book first (`told`), the outcome of the attempt after it: between the two nothing is free that is not.

Source: `resource.k8s.io/v1` ResourceClaim; the finalizer and who clears it: Kubernetes' resource claim controller.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from msgspec import convert, structs, to_builtins

from forebay.api.kubernetes.resource import FINALIZER, Allocation, ConsumerReference, ResourceClaim, ResourceClaimStatus
from forebay.kube.client import Client
from forebay.kube.config import ConfigError
from forebay.kube.errors import ApiError, Conflict, NotFound, Unreachable, Unusable
from forebay.kube.leader import NotLeading
from forebay.kube.objects import Key
from forebay.kube.resources import RESOURCE_CLAIMS
from forebay.scheduler.claims.written import held
from forebay.scheduler.filters.resource_claims import MOST_USERS
from forebay.scheduler.live.instructions import Bind, ClaimWish, FreeClaim, Named

LOG = logging.getLogger(__name__)

TRIES = 8
"""Of one write, each after somebody else's. Our own follow each other: a gang may share a claim."""
LOCKS = 64
"""Claims that are written at once, at most; those of one number wait for each other."""

Devices = tuple[tuple[str, str, str], ...]
"""Driver, pool, device of each."""

Failures = (ApiError, Unreachable, Unusable, ConfigError, NotLeading)


class AllocationFailed(Exception):
    """A claim is not as it was decided. One sentence."""


class Allocations:
    """`told` gets every claim as the server has it after a write of ours."""

    def __init__(self, client: Client, told: Callable[[ResourceClaim], None]) -> None:
        self._client, self._told = client, told
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def reserve(self, bind: Bind) -> None:
        """Allocates what the bind wishes and reserves it for the pod. Raises AllocationFailed, and what the client raises."""
        for wish in bind.claims:
            self._again(bind.pod, wish.claim, lambda claim, wish=wish: self._reserve(claim, wish, bind.pod))  # type: ignore[misc]

    def release(self, bind: Bind) -> None:
        """The pod was not bound. What cannot be written is left: it stays allocated, and the claim's own controller clears it
        when the pod is gone."""
        for wish in bind.claims:
            self._give_back(bind.pod, wish.claim, wish.uid, wish.devices)

    def free(self, one: FreeClaim) -> None:
        """The pod waits and its claim keeps it from where there is room: it is allocated anew."""
        self._give_back(one.pod, one.claim, one.uid)

    # --- one claim ---

    def _again(self, pod: Named, name: str, step: Callable[[ResourceClaim], None]) -> None:
        key = Key(pod.namespace, name)
        with self._locks[hash(key) % LOCKS]:
            for left in reversed(range(TRIES)):
                try:
                    step(self._client.get(RESOURCE_CLAIMS, key, ResourceClaim))
                    return
                except Conflict:
                    if not left:
                        raise

    def _reserve(self, claim: ResourceClaim, wish: ClaimWish, pod: Named) -> None:
        name = f"ResourceClaim {pod.namespace}/{wish.claim}"
        if claim.metadata.uid != wish.uid:
            raise AllocationFailed(f"{name} is another one by now: it is decided anew")
        if claim.metadata.deletion_timestamp is not None:
            raise AllocationFailed(f"{name} is being deleted")
        status = claim.status
        if status.allocation is None:
            if not wish.ours:
                raise AllocationFailed(f"{name} has lost its devices: it is decided anew")
            claim = self._protect(claim)
            allocation = dict(wish.allocation)
            self._write(claim, {"allocation": allocation, "reservedFor": _references(status, pod)}, allocation)
            return
        if sorted(held(status.allocation)) != sorted(wish.devices):
            raise AllocationFailed(f"{name} was allocated otherwise by somebody else: it is decided anew")
        if any(one.uid == pod.uid for one in status.reserved_for):
            self._told(claim)
            return
        if len(status.reserved_for) >= MOST_USERS:
            raise AllocationFailed(f"{name} has {MOST_USERS} users: use another claim")
        self._write(claim, {"reservedFor": _references(status, pod)}, to_builtins(status.allocation))

    def _protect(self, claim: ResourceClaim) -> ResourceClaim:
        """Nobody deletes it while it is used."""
        if FINALIZER in claim.metadata.finalizers:
            return claim
        finalizers = (*claim.metadata.finalizers, FINALIZER)
        body = {"metadata": {"resourceVersion": claim.metadata.resource_version, "finalizers": list(finalizers)}}
        made = self._client.merge(RESOURCE_CLAIMS, Key(claim.metadata.namespace, claim.metadata.name), body)
        version = made.metadata.resource_version
        return structs.replace(claim, metadata=structs.replace(claim.metadata, resource_version=version, finalizers=finalizers))

    def _give_back(self, pod: Named, name: str, uid: str, devices: Devices | None = None) -> None:
        try:
            self._again(pod, name, lambda claim: self._leave(claim, pod, uid, devices))
        except NotFound:
            return
        except Failures as error:
            LOG.warning("ResourceClaim %s/%s stays reserved for pod %s, which was not bound: %s", pod.namespace, name, pod, error)

    def _leave(self, claim: ResourceClaim, pod: Named, uid: str, devices: Devices | None) -> None:
        """`devices`: those that were decided here; what somebody else allocated is not ours to take back."""
        status = claim.status
        if claim.metadata.uid != uid or status.allocation is None:
            return
        if devices is not None and sorted(held(status.allocation)) != sorted(devices):
            return
        rest = [one for one in status.reserved_for if one.uid != pod.uid]
        if len(rest) == len(status.reserved_for) and rest:
            return
        if rest:
            self._write(claim, {"reservedFor": to_builtins(rest)}, to_builtins(status.allocation))
        else:
            self._write(claim, {"reservedFor": None, "allocation": None}, None)

    def _write(self, claim: ResourceClaim, status: dict[str, Any], allocation: Any) -> None:
        meta = claim.metadata
        body = {"metadata": {"resourceVersion": meta.resource_version}, "status": status}
        made = self._client.merge(RESOURCE_CLAIMS, Key(meta.namespace, meta.name), body, sub="status")
        references = convert(status["reservedFor"] or (), tuple[ConsumerReference, ...])
        now = ResourceClaimStatus(_read(allocation), references)
        version = made.metadata.resource_version
        self._told(structs.replace(claim, metadata=structs.replace(meta, resource_version=version), status=now))


def _references(status: ResourceClaimStatus, pod: Named) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = to_builtins([one for one in status.reserved_for if one.uid != pod.uid])
    return [*kept, {"resource": "pods", "name": pod.name, "uid": pod.uid}]


def _read(allocation: Any) -> Allocation | None:
    return None if allocation is None else convert(allocation, Allocation)
