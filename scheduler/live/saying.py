"""Why pods wait, said once: a sentence is told again only when it changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from forebay.api.kubernetes.core import Pod
from forebay.scheduler import explain
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.live.books import Books
from forebay.scheduler.live.instructions import Named, Report, Tell
from forebay.scheduler.plan import Plan
from forebay.scheduler.pods.request import Request


class Sayings:
    """Of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._told: dict[str, str] = {}
        self._whys: dict[Request, str] = {}
        self._at: tuple[int, int, int, tuple[str, ...]] = (-1, 0, 0, ())

    def why(self, request: Request) -> str:
        """Why no node takes a pod. Counted once for equal requests while nothing changes."""
        cluster = self._cluster
        now = (cluster.tick, cluster.storage.version, cluster.holds.serial, cluster.holds.active)
        if self._at != now:
            self._whys.clear()
            self._at = now
        if request not in self._whys:
            self._whys[request] = str(explain.why(self._cluster, request))
        return self._whys[request]

    def why_gang(self, plan: Plan) -> str:
        """Why a gang cannot start."""
        failed = ", ".join(f"{count} {name}" for name, count in list(plan.failed.items())[: explain.SHOWN])
        return plan.reason + (f"; of {len(self._cluster.nodes)} nodes: {failed}" if failed else "")

    def tell(
        self, pod: Pod, reason: Literal["Unschedulable", "SchedulerError"], sentence: str, nominated: str | None = None
    ) -> Iterable[Tell]:
        """What is to be written, nothing for what stands there already, be it from before a restart."""
        uid = pod.metadata.uid
        if self._told.get(uid) == sentence and nominated is None:
            return ()
        first = uid not in self._told
        self._told[uid] = sentence
        said = [c.message for c in pod.status.conditions if c.type == "PodScheduled" and c.status == "False"]
        if first and sentence in said and nominated is None:
            return ()
        return (Tell(named(pod), reason, sentence, nominated, bool(said)),)

    def forget(self, uid: str) -> None:
        self._told.pop(uid, None)

    def classes_changed(self) -> None:
        self._whys.clear()


def quota_changed(books: Books, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> list[Report]:
    """A quota object is there, changed, or (None) gone: the books read it, and what is wrong with it is said on it."""
    one = new if new is not None else old
    assert one is not None
    kind, meta = str(one.get("kind")), one.get("metadata") or {}
    where = str(meta.get("namespace", "")), str(meta.get("name", ""))
    problems = books.tenants.quota(kind, *where, new)
    mine = f"{kind} {'/'.join(part for part in where if part)}"
    ours = ("", mine), f'{mine} queue "'  # a mistake is named by its object, and by its queue where that is what is wrong
    wrong = [
        str(one) for one in problems if one.severity == "error" and (one.object in ours[0] or one.object.startswith(ours[1]))
    ]
    if new is None or not wrong:
        return []
    return [Report(str(one.get("apiVersion", "")), kind, *where, str(meta.get("uid", "")), "InvalidQuota", wrong[0])]


def named(pod: Pod) -> Named:
    return Named(pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)
