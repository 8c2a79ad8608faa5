"""What pods get from the queue that they are counted in, beside its bounds: how nodes and cards are filled with them, and on
which nodes they may run (ACK's resource flavors)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from forebay.api.fluid.names import CACHE_BYTES
from forebay.api.kubernetes.core import Affinity, Expression, NodeAffinity, NodeSelector, NodeTerm, Pod
from forebay.api.quantity import QuantityError
from forebay.scheduler.pods.amounts import cache_bytes
from forebay.scheduler.pods.fill import UNSAID, Fill
from forebay.scheduler.quota.inputs.elastic import of_pod
from forebay.scheduler.quota.inputs.flavors import Flavor, read_flavor
from forebay.scheduler.quota.quotas import Quotas
from forebay.scheduler.quota.tree import Home


class Unplaceable(ValueError):
    """The pod, or its queue, contradicts itself: nothing but a change of it helps. One sentence."""


class Tenants:
    """Over the quotas as they are now. `default`: how nodes are filled where neither pod nor queue say."""

    def __init__(self, quotas: Quotas) -> None:
        self.default = UNSAID
        self._quotas = quotas
        self._flavors: dict[str, Flavor] = {}
        self._flavored = self._filled = False
        self._objects: dict[tuple[str, str, str], Mapping[str, object]] = {}

    # --- what comes in ---

    def quota(self, kind: str, namespace: str, name: str, value: Mapping[str, object] | None) -> list[Any]:
        """A quota object is there, changed, or (None) gone. What is wrong with all of them."""
        if value is None:
            self._objects.pop((kind, namespace, name), None)
        else:
            self._objects[kind, namespace, name] = value
        problems = self._quotas.load(self._objects.values())
        tree = self._quotas.tree
        self._flavored = any(queue.flavors for queue in tree.queues.values())
        self._filled = any(fill != UNSAID for fill in tree.fills.values())
        return problems

    def flavor(self, name: str, value: Mapping[str, Any] | None) -> None:
        """A ResourceFlavor (kueue.x-k8s.io) is there, changed, or (None) gone."""
        if value is None:
            self._flavors.pop(name, None)
        else:
            self._flavors[name] = read_flavor(name, value)

    # --- what is asked ---

    def home(self, pod: Pod) -> Home:
        """The queue that the pod is counted in."""
        return self._quotas.tree.home(pod.metadata.namespace, of_pod(pod.metadata.labels)[0])

    @property
    def governed(self) -> bool:
        """Whether there are quotas at all."""
        tree = self._quotas.tree
        return bool(tree.resources or tree.closed or tree.refused)

    @property
    def fills(self) -> bool:
        """Whether anybody says how nodes and cards are filled."""
        return self._filled or self.default != UNSAID

    def fill(self, pod: Pod) -> Fill:
        """How nodes and cards are filled with pods like it."""
        own = self._quotas.tree.fills.get(self.home(pod).queue, UNSAID) if self._filled else UNSAID
        return own.or_else(self.default)

    def kept_in(self, pod: Pod) -> Pod:
        """The pod with the node labels of those of its queue's flavors required of its nodes whose taints it tolerates, and with
        their tolerations, unless another scheduler looks at it after us (it is gated).

        Raises Unplaceable for a flavor that is missing or wrong, for a pod that tolerates none, and for one that does not say how
        much of caches it takes.
        """
        try:
            cache_bytes(pod)
        except QuantityError as error:
            said = pod.metadata.annotations[CACHE_BYTES]
            raise Unplaceable(f'annotation {CACHE_BYTES} "{said[:40]}" {error}; {error.remedy}') from error
        queue = self.home(pod).queue if self._flavored else ""
        tree = self._quotas.tree
        flavors = next((tree.queues[one].flavors for one in tree.path(queue) if tree.queues[one].flavors), ()) if queue else ()
        if not flavors:
            return pod
        missing = [name for name in flavors if name not in self._flavors]
        if missing:
            raise Unplaceable(
                f'queue "{queue}" runs on nodes of resource flavor {", ".join(flavors)}, and ResourceFlavor {missing[0]} '
                "(kueue.x-k8s.io) does not exist; create it, or take it out of the queue"
            )
        wrong = next((mistake for name in flavors if (mistake := self._flavors[name].mistake)), "")
        if wrong:
            raise Unplaceable(f'queue "{queue}": {wrong}')
        given, own = not pod.spec.scheduling_gates, pod.spec.tolerations
        refused = {name: self._flavors[name].refusing(own, given=given) for name in flavors}
        there = [self._flavors[name] for name in flavors if refused[name] is None]
        if not there:
            told = ", ".join(f"{name} has taint {taint}" for name, taint in refused.items())
            raise Unplaceable(
                f'queue "{queue}" runs on nodes of resource flavors with taints that the pod does not tolerate: {told}; '
                "add a toleration to the pod, or to the flavor (not for NoExecute)"
            )
        if given and (more := [one for flavor in there for one in flavor.tolerations if one not in own]):
            pod = msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, tolerations=(*own, *dict.fromkeys(more))))
        labels = [tuple(Expression(key, "In", (value,)) for key, value in one.labels.items()) for one in there]
        return _required(pod, labels) if all(labels) else pod  # a flavor without labels is any node


def _required(pod: Pod, any_of: list[tuple[Expression, ...]]) -> Pod:
    """With one of these required beside what the pod requires of its nodes itself."""
    affinity = pod.spec.affinity or Affinity()
    nodes = affinity.node_affinity or NodeAffinity()
    terms = nodes.required.node_selector_terms if nodes.required is not None else (NodeTerm(),)
    made = tuple(
        msgspec.structs.replace(term, match_expressions=(*term.match_expressions, *more))
        for term in terms
        if term != NodeTerm() or nodes.required is None  # a term without requirements holds nowhere
        for more in any_of
    )
    nodes = msgspec.structs.replace(nodes, required=NodeSelector(made))
    spec = msgspec.structs.replace(pod.spec, affinity=msgspec.structs.replace(affinity, node_affinity=nodes))
    return msgspec.structs.replace(pod, spec=spec)
