"""One pass over one node: Fluid's labels as `nodelabels` wants them. Only where the installation asks for them.

All are put there by one field manager, in one apply, so that none is left over and nobody else's is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from forebay.api.fluid.names import TYPES
from forebay.controller import copies as c
from forebay.controller.copies import Copies
from forebay.controller.kinds import RESOURCES, Node, NodeCache, Pod
from forebay.controller.nodes.labels import APPLIED, Labelled, digest, labels_of, settled
from forebay.kube.client import Client
from forebay.kube.errors import Conflict
from forebay.kube.objects import Key
from forebay.runtimes.binding import bound_runtime
from forebay.runtimes.engine import Subject
from forebay.runtimes.forebay.planning import read

LOG = logging.getLogger(__name__)

MANAGER = "forebay-node-labels"


class Labeller:
    """`subject` gives a Dataset with what was said of it, None where there is none."""

    def __init__(self, copies: Copies, subject: Callable[[Key], Subject | None], client: Client) -> None:
        self._copies, self._subject, self._client = copies, subject, client

    def reconcile(self, name: str) -> None:
        """Raises what `Client` raises."""
        node: Node | None = self._copies.get("Node", "", name)
        if node is None:
            return
        wanted = labels_of(self._datasets(name))
        if settled(node, wanted):
            return
        meta = {"name": name, "uid": node.metadata.uid, "labels": wanted}
        if wanted:
            meta["annotations"] = {APPLIED: digest(wanted)}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": meta}
        try:
            self._client.apply(RESOURCES["Node"], Key("", name), body, manager=MANAGER)
        except Conflict as error:
            LOG.info("node %s is another one by now: %s", name, error)
            return
        LOG.info("node %s: %d labels of Fluid", name, len(wanted))

    def _datasets(self, node: str) -> Iterable[Labelled]:
        pods: list[Pod] = self._copies.where("Pod", "node", node)
        workers = {of for pod in pods if not pod.ended and (of := c.worker_of(pod))}
        cache: NodeCache | None = (
            self._copies.get("NodeCache", "", node) if self._copies.readable("NodeCache", "", node) else None
        )
        shown = {c.path(h.namespace, h.name) for h in cache.datasets if h.mounted} if cache is not None else set()
        for at in sorted(workers | shown):
            namespace, _, name = at.partition("/")
            subject = self._subject(Key(namespace, name)) if self._copies.readable("Dataset", namespace, name) else None
            if subject is not None:
                yield _labelled(subject, worker=at in workers, shows=at in shown)


def _labelled(subject: Subject, *, worker: bool, shows: bool) -> Labelled:
    namespace, name = subject.key
    runtime, job = bound_runtime(subject), read(subject).job
    tiers = job.settings.tiers if job is not None else ()
    return Labelled(
        namespace=namespace,
        name=name,
        uid=subject.dataset["metadata"].get("uid", ""),
        type=TYPES[runtime["kind"]] if runtime is not None else "cache",
        exclusive=job is not None and not job.settings.shared,
        worker=worker,
        shows=shows,
        memory=sum(t.quota for t in tiers if t.medium == "MEM"),
        disk=sum(t.quota for t in tiers if t.medium != "MEM"),
    )
