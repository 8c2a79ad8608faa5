"""Threads that bind pods: what the core decided goes to the API server, and what came of it comes back. Decides nothing.

The binds of one gang are one attempt of up to four phases, each begun when all have done the one before: a rehearsal of every
binding (dry run), volumes, claims on devices, bindings. A failure before the last ends the attempt before anything is bound;
one in the last holds back whatever has not been sent. A pod that is not bound gives its claims back before its outcome is told.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from forebay.api.kubernetes.core import Pod
from forebay.kube.client import Client
from forebay.kube.config import ConfigError
from forebay.kube.errors import ApiError, Conflict, NotFound, Unreachable, Unusable
from forebay.kube.leader import NotLeading
from forebay.kube.objects import Key
from forebay.kube.pacing import TokenBucket
from forebay.kube.resources import PODS
from forebay.scheduler.live.effects.allocations import AllocationFailed, Allocations
from forebay.scheduler.live.effects.volumes import Volumes, VolumesFailed
from forebay.scheduler.live.instructions import Bind, FreeClaim, Outcome

LOG = logging.getLogger(__name__)

SLOW = 8
"""Threads for what takes long: volumes that are being made."""
ASK_AGAIN = 5
"""Times that the server is asked what became of a binding whose answer was lost."""

REHEARSE, VOLUMES, CLAIMS, BIND = "rehearse", "volumes", "claims", "bind"

Failures = (ApiError, Unreachable, Unusable, ConfigError, NotLeading, VolumesFailed, AllocationFailed)


class Attempt:
    """Binds that belong together. Written under the binder's lock."""

    def __init__(self, binds: Sequence[Bind], phases: Sequence[str]) -> None:
        self.binds = list(binds)
        self.phases = list(phases)
        self.left = 0
        self.failed: dict[int, Outcome] = {}
        self.stopped = False
        self.claimed: set[int] = set()


class Binder:
    """`deliver` gets every outcome, on a thread of ours; `bound` is told of each pod that was bound, and the seconds it took.

    `gated`: does what is to be done for pods that another scheduler binds, all of an attempt at once.
    """

    def __init__(
        self,
        client: Client,
        volumes: Volumes,
        allocations: Allocations,
        deliver: Callable[[Outcome], None],
        bound: Callable[[Bind, float], None],
        *,
        threads: int,
        rehearse: bool = True,
        gated: Callable[[Sequence[Bind]], list[Outcome]] | None = None,
    ) -> None:
        self._client, self._volumes, self._deliver, self._bound, self._gated = client, volumes, deliver, bound, gated
        self._allocations = allocations
        self.rehearse = rehearse
        self.defect = ""
        self._lock = threading.Lock()
        self._called_back: set[int] = set()
        self._open: set[int] = set()  # numbers that are neither sent nor ended
        self._bucket: TokenBucket | None = None
        self._quick = queue.SimpleQueue[Callable[[], None] | None]()
        self._slow = queue.SimpleQueue[Callable[[], None] | None]()
        quick = [threading.Thread(target=self._run, args=(self._quick,), name=f"bind-{n}", daemon=True) for n in range(threads)]
        slow = [threading.Thread(target=self._run, args=(self._slow,), name=f"volumes-{n}", daemon=True) for n in range(SLOW)]
        self._threads = [(thread, self._quick) for thread in quick] + [(thread, self._slow) for thread in slow]
        self._ending = threading.Event()

    def pace(self, rate: float, burst: int) -> None:
        """Bindings a second; 0 for no bound."""
        with self._lock:
            self._bucket = TokenBucket(rate, burst) if rate else None

    def start(self) -> None:
        for thread, _ in self._threads:
            thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """What is not sent is not sent any more. Whether all threads ended in time."""
        self._ending.set()
        self._volumes.stop()
        for _, work in self._threads:
            work.put(None)
        end = time.monotonic() + timeout
        for thread, _ in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread, _ in self._threads)

    # --- what comes in ---

    def submit(self, binds: Iterable[Bind]) -> None:
        """Binds of one decision: those of a gang are one attempt."""
        gangs: dict[tuple[str, bool], list[Bind]] = {}
        for bind in binds:
            if bind.gang:
                gangs.setdefault((bind.gang, bind.gated), []).append(bind)
            else:
                self._begin([bind])
        for members in gangs.values():
            self._begin(members)

    def free(self, claim: FreeClaim) -> None:
        """Devices that a claim holds where its pod cannot go."""
        self._quick.put(lambda: self._allocations.free(claim))

    def cancel(self, numbers: Iterable[int]) -> None:
        """Those that have not been sent yet will not be."""
        with self._lock:
            self._called_back.update(number for number in numbers if number in self._open)

    def _begin(self, binds: list[Bind]) -> None:
        with self._lock:
            self._open.update(bind.number for bind in binds)
        if binds[0].gated:
            self._slow.put(lambda: self._write_gated(binds))
            return
        phases = [BIND]
        if any(bind.claims for bind in binds):
            phases.insert(0, CLAIMS)
        if any(bind.volumes for bind in binds):
            phases.insert(0, VOLUMES)
        if len(binds) > 1 and self.rehearse:
            phases.insert(0, REHEARSE)
        self._phase(Attempt(binds, phases))

    # --- phases ---

    def _phase(self, attempt: Attempt) -> None:
        phase = attempt.phases.pop(0)
        attempt.left = len(attempt.binds)
        work = self._slow if phase == VOLUMES else self._quick
        for bind in attempt.binds:
            work.put(lambda bind=bind: self._step(attempt, phase, bind))  # type: ignore[misc]

    def _step(self, attempt: Attempt, phase: str, bind: Bind) -> None:
        outcome = self._do(attempt, phase, bind)
        with self._lock:
            attempt.left -= 1
            if outcome is not None and outcome.result != "bound":
                attempt.failed[bind.number] = outcome
                attempt.stopped = True
            last = attempt.left == 0
        if phase == BIND:
            assert outcome is not None
            self._end(outcome, attempt, bind)
        elif last:
            if not attempt.stopped:
                self._phase(attempt)
                return
            why = next(iter(attempt.failed.values()))
            for one in attempt.binds:
                held = Outcome(one.number, one.pod.uid, "withheld", f"another member failed: {why.sentence}")
                self._end(attempt.failed.get(one.number, held), attempt, one)

    def _do(self, attempt: Attempt, phase: str, bind: Bind) -> Outcome | None:
        """None where a phase before the last went well."""
        with self._lock:
            stop = attempt.stopped or self._ending.is_set() or bind.number in self._called_back
            if not stop and phase == BIND:
                self._open.discard(bind.number)
        if stop:
            return Outcome(bind.number, bind.pod.uid, "withheld", "it was called back")
        try:
            if phase == REHEARSE:
                self._post(bind, dry_run=True)
                return None
            if phase == VOLUMES:
                self._volumes.carry_out(bind)
                return None
            if phase == CLAIMS:
                with self._lock:
                    attempt.claimed.add(bind.number)
                self._allocations.reserve(bind)
                return None
            began = time.monotonic()
            self._post(bind, dry_run=False)
            self._bound(bind, time.monotonic() - began)
            return Outcome(bind.number, bind.pod.uid, "bound")
        except Failures as error:
            return self._failed(bind, error, sent=phase == BIND)

    def _end(self, outcome: Outcome, attempt: Attempt | None = None, bind: Bind | None = None) -> None:
        if attempt is not None and bind is not None and outcome.result != "bound" and bind.number in attempt.claimed:
            self._allocations.release(bind)
        with self._lock:
            self._open.discard(outcome.number)
            self._called_back.discard(outcome.number)
        self._deliver(outcome)

    def _write_gated(self, binds: list[Bind]) -> None:
        if self._gated is None:
            sentence = "pods of other schedulers are not placed here: gates mode is off"
            for bind in binds:
                self._end(Outcome(bind.number, bind.pod.uid, "failed", sentence))
            return
        for outcome in self._gated(binds):
            self._end(outcome)

    # --- one call ---

    def _post(self, bind: Bind, *, dry_run: bool) -> None:
        self._wait_turn()
        pod = bind.pod
        meta = {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {**meta, **({"annotations": dict(bind.annotations)} if bind.annotations else {})},
            "target": {"apiVersion": "v1", "kind": "Node", "name": bind.node},
        }
        self._client.create_sub(PODS, Key(pod.namespace, pod.name), "binding", body, dry_run=dry_run)

    def _wait_turn(self) -> None:
        with self._lock:
            wait = self._bucket.reserve(time.monotonic()) if self._bucket is not None else 0.0
        if wait:
            self._ending.wait(wait)

    def _failed(self, bind: Bind, error: Exception, *, sent: bool) -> Outcome:
        number, uid = bind.number, bind.pod.uid
        if isinstance(error, NotFound):
            return Outcome(number, uid, "gone", str(error))
        if isinstance(error, Conflict):
            return Outcome(number, uid, "refused", str(error))
        if sent and isinstance(error, Unreachable) and error.sent:
            return self._look(bind, error)
        return Outcome(number, uid, "failed", str(error))

    def _look(self, bind: Bind, error: Unreachable) -> Outcome:
        """The answer was lost: what the pod says counts. While nobody says anything the pod stays assumed."""
        number, uid = bind.number, bind.pod.uid
        for _ in range(ASK_AGAIN):
            try:
                pod = self._client.get(PODS, Key(bind.pod.namespace, bind.pod.name), Pod)
            except NotFound:
                return Outcome(number, uid, "gone", "it was deleted")
            except (ApiError, Unreachable, Unusable, ConfigError) as again:
                LOG.warning("pod %s: what became of its binding is not known yet: %s", bind.pod, again)
                if self._ending.wait(2.0):
                    break
                continue
            if pod.metadata.uid != uid:
                return Outcome(number, uid, "gone", "another pod of that name is there")
            if pod.spec.node_name == bind.node:
                return Outcome(number, uid, "bound")
            if pod.spec.node_name:
                return Outcome(number, uid, "refused", f"it is bound to {pod.spec.node_name}")
            return Outcome(number, uid, "failed", str(error))
        return Outcome(number, uid, "bound", "not known: the watch will say")

    def _run(self, work: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while True:
            step = work.get()
            if step is None:
                return
            try:
                step()
            except Exception as error:
                self.defect = f"a thread that binds ended by a defect: {error!r}; restart the process"
                LOG.exception("%s", self.defect)
                raise
