"""What a pod asks of a node: one formula for nodes, devices and quotas.

Containers run together: they add up. Init containers run before them, one after the other, each beside the sidecars (init
containers that restart always) declared before it; the sidecars stay. So the pod needs the larger of

- all containers and all sidecars together, and
- the largest of: an init container plus the sidecars before it.

`spec.resources.requests` of the pod itself, where set, replaces that for cpu, memory and huge pages. Overhead comes on top.
A container that names a limit and no request of a resource asks for the limit. (`component-helpers/resource`, Kubernetes 1.36.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from forebay.api.fluid.names import CACHE_BYTES
from forebay.api.kubernetes.core import Container, ContainerStatus, Pod, PodSpec, PodStatus, Quantities, Resources
from forebay.api.quantity import QuantityError
from forebay.scheduler.devices.vendors.table import KINDS
from forebay.scheduler.quota.amounts import Amounts, add, parse_amount

PODS = "pods"
"""The resource of which every pod takes one."""
SIDECAR = "Always"
PER_CARD = {
    each: names.count
    for kind in KINDS.values()
    for names in kind.names
    for each in (names.memory, names.percent, names.cores)
    if each and names.count
}
"""Resources of which a container asks so much of each card (HAMi), and the resource that says of how many."""


def pod_amounts(pod: Pod) -> dict[str, int]:
    """Amount by resource, without zeros and without `pods`; thousandths of a core for cpu, whole units for the rest.

    A resize in place counts as the larger of what is asked and what was given, until both agree; one that the kubelet calls
    infeasible counts as what was given. Raises `QuantityError` for what is no quantity and for what is below 0.
    """
    return spec_amounts(pod.spec, pod.status)


def quota_amounts(pod: Pod, asked: Amounts | None = None) -> Amounts:
    """What quotas count of a pod: `pod_amounts` (`asked`, where they are known), but what is asked of each of several cards as
    often as that, and bytes of cache that it keeps on its node.

    No node offers those, so the pod says it in an annotation. One that is no quantity counts as none; see `cache_bytes`.
    """
    asked = pod_amounts(pod) if asked is None else asked
    if PER_CARD.keys().isdisjoint(asked) and CACHE_BYTES not in pod.metadata.annotations:
        return asked
    amounts = dict(asked)
    each = PER_CARD.keys() & amounts.keys()
    if each:
        over_all = peak(pod.spec.containers, pod.spec.init_containers, _of_all_cards)
        amounts |= {name: over_all[name] for name in each}
    try:
        if cache := cache_bytes(pod):
            amounts[CACHE_BYTES] = cache
    except QuantityError:
        pass  # such a pod is not placed, and says why
    return amounts


def _of_all_cards(container: Container) -> Amounts:
    amounts = dict(container_amounts(container.resources))
    for name in PER_CARD.keys() & amounts.keys():
        amounts[name] *= max(amounts.get(PER_CARD[name], 1), 1)
    return amounts


def cache_bytes(pod: Pod) -> int:
    """Raises `QuantityError` for an annotation that is none."""
    said = pod.metadata.annotations.get(CACHE_BYTES)
    return _amount(CACHE_BYTES, said) if said else 0


def spec_amounts(spec: PodSpec, status: PodStatus | None = None) -> dict[str, int]:
    """`pod_amounts` of a pod's spec; also for a template, which has no status."""
    given, infeasible = _given(status)

    def asks(container: Container) -> Amounts:
        there = given.get(container.name)
        if there is None or there.resources is None:
            return container_amounts(container.resources)
        allocated, actual = _read(there.allocated_resources), _read(there.resources.requests)
        return _largest([allocated, actual] if infeasible else [container_amounts(container.resources), allocated, actual])

    total = peak(spec.containers, spec.init_containers, asks)
    for name, value in spec.resources.requests.items():
        if name in ("cpu", "memory") or name.startswith("hugepages-"):
            total[name] = _amount(name, value)
    add(total, _read(spec.overhead))
    return {name: amount for name, amount in total.items() if amount}


def container_amounts(resources: Resources) -> Amounts:
    """What one container asks by itself."""
    return _read({**resources.limits, **resources.requests})


def peak(
    containers: Iterable[Container], init_containers: Iterable[Container], asks: Callable[[Container], Amounts]
) -> dict[str, int]:
    """The formula over any amounts, such as cards of devices: the most that is held at one time, by resource."""
    running: dict[str, int] = {}
    for container in containers:
        add(running, asks(container))
    sidecars: dict[str, int] = {}
    first: dict[str, int] = {}
    for container in init_containers:
        now = dict(sidecars)
        add(now, asks(container))
        if container.restart_policy == SIDECAR:
            add(running, asks(container))
            sidecars = now
        for name, amount in now.items():
            first[name] = max(first.get(name, 0), amount)
    return dict(_largest([running, first]))


def _largest(several: Iterable[Amounts]) -> Amounts:
    most: dict[str, int] = {}
    for amounts in several:
        for name, amount in amounts.items():
            most[name] = max(most.get(name, 0), amount)
    return most


def _given(status: PodStatus | None) -> tuple[Mapping[str, ContainerStatus], bool]:
    if status is None or not (status.container_statuses or status.init_container_statuses):
        return {}, False
    named = {one.name: one for one in (*status.container_statuses, *status.init_container_statuses)}
    refused = any(one.type == "PodResizePending" and one.reason == "Infeasible" for one in status.conditions)
    return named, refused


def _read(quantities: Quantities) -> dict[str, int]:
    return {name: _amount(name, value) for name, value in quantities.items()}


@lru_cache(maxsize=65536)
def _amount(name: str, value: str | int) -> int:
    return parse_amount(name, value)
