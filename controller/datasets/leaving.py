"""The last passes over datasets, before forebay leaves a cluster: what is ours goes, what users made stays and is let go.

A Dataset that stays keeps no finalizer of ours, so that it, its namespace and its CRD can be deleted when nobody is there any
more who would let go of it. Installed again, forebay serves it as before. Pods that read hold their dataset up, as they hold up
a deletion: without the node's parts they could not even end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from forebay.api.fluid.names import DATASET_FINALIZER, TYPES, operation_finalizer, runtime_finalizer
from forebay.api.moments import rfc3339
from forebay.controller import copies as c
from forebay.controller.copies import Copies
from forebay.controller.datasets.looking import Looker
from forebay.controller.datasets.reconciler import ref_of
from forebay.controller.kinds import RESOURCES, Pod, as_object
from forebay.controller.telling import Teller
from forebay.controller.writing import Writer, key_of
from forebay.kube.errors import Conflict
from forebay.kube.objects import Key
from forebay.kube.workers import Again
from forebay.runtimes import registry
from forebay.runtimes.engine import PROTECTION, Object, Ref

LOG = logging.getLogger(__name__)

AGAIN = 5.0
"""Seconds until a dataset is looked at again that something holds up: what lets go of it need not change a copy."""
FINALIZERS: Mapping[str, str] = {"Dataset": DATASET_FINALIZER, **{kind: runtime_finalizer(kind) for kind in TYPES}}
"""What each kind of users' objects may carry of us, as Fluid calls it."""
OPERATIONS: Mapping[str, str] = {kind: operation_finalizer(kind) for kind in ("DataLoad", *c.UNDRIVEN)}
"""The same of kinds that are no dataset's part: `sweep` lets go of them."""
SWEPT = ("Job", "DatasetHints")
"""What is made beside datasets; of kinds that users have too, the copies hold only ours."""
_OURS = (*c.CHILDREN, "PersistentVolume")


class Leaving:
    """In the place of a Reconciler. `wall` is the time of day, aware of its zone."""

    def __init__(
        self, looker: Looker, writer: Writer, teller: Teller, wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._look, self._write, self._tell, self._wall = looker, writer, teller, wall

    def reconcile(self, key: Key) -> Again | None:
        subject = self._look.subject(key)
        if subject is None:
            self._without(key)
            return None
        now = self._wall()
        found = self._look.look(subject, now).found
        planned = registry.leave(subject, found)
        uids = {ref: obj["metadata"]["uid"] for each in found.values() for ref, obj in each.objects.items()}
        for ref in planned.delete:
            self._write.delete(ref, uids.get(ref, ""))
        for ref in planned.unprotect:
            self._write.release(next(each.objects[ref] for each in found.values() if ref in each.objects), [PROTECTION])
        self._tell.findings(subject.dataset, planned.findings)
        if not planned.release:
            return Again(AGAIN)
        for obj, status in registry.uninstalled(subject, rfc3339(now)):
            self._let_go(obj)
            self._say(obj, status)
        return None

    def _without(self, key: Key) -> None:
        for runtime in self._look.runtimes(key):
            self._let_go(runtime)
        for volume in self._look.volumes_of(key):
            self._write.delete(ref_of(volume), volume["metadata"]["uid"])

    def _let_go(self, obj: Object) -> None:
        self._write.release(obj, [FINALIZERS[obj["kind"]]], alive=True)

    def _say(self, obj: Object, status: Any) -> None:
        """After the finalizer, without which the object may be gone; it is no reason to keep it."""
        try:
            self._write.status(obj, status)
        except Conflict as error:
            LOG.info("status of %s %s: %s", obj["kind"], key_of(obj), error)


def sweep(copies: Copies, writer: Writer) -> None:
    """What hangs on no dataset's pass: operations are let go of, and what carries them out goes."""
    for kind, finalizer in OPERATIONS.items():
        for thing in _known(copies, kind):
            if finalizer in thing.metadata.finalizers:
                _quietly(writer.release, as_object(RESOURCES[kind], thing), [finalizer], alive=True)
    for kind in SWEPT:
        for thing in _known(copies, kind):
            if not thing.metadata.deletion_timestamp:
                ref = Ref(kind, thing.metadata.namespace, thing.metadata.name)
                _quietly(writer.delete, ref, thing.metadata.uid)


def _quietly(write: Callable[..., object], *arguments: Any, **more: Any) -> None:
    """What is another version by now is met again at the next look."""
    try:
        write(*arguments, **more)
    except Conflict as error:
        LOG.info("%s", error)


def _known(copies: Copies, kind: str) -> list[Any]:
    store = copies.stores.get(kind)
    return [] if store is None else store.values()


def left(copies: Copies) -> list[str]:
    """What would hold something up, or stay for ever, were we gone now."""
    found = [
        f"{kind} {at(thing)} has finalizer {finalizer}"
        for kind, finalizer in (*FINALIZERS.items(), *OPERATIONS.items())
        for thing in _known(copies, kind)
        if finalizer in thing.metadata.finalizers
    ]
    found += [f"{kind} {key}: {broken.why}" for kind in FINALIZERS for key, broken in copies.stores[kind].broken().items()]
    found += [f"{kind} {at(thing)}" for kind in (*_OURS, *SWEPT) for thing in _known(copies, kind)]
    pods: Iterable[Pod] = copies.stores["Pod"].values()
    found += [f"worker {at(pod)} on node {pod.spec.node_name or 'none'}" for pod in pods if c.worker_of(pod)]
    return sorted(found)


def at(thing: Any) -> str:
    meta = thing.metadata
    return f"{meta.namespace}/{meta.name}" if meta.namespace else str(meta.name)
