"""The scheduler as a process: copies, leader, the deciding thread, binders, Events, from start to end in the right order.

One thread owns the core. Whatever happens elsewhere comes to it through one queue; what it decides goes to the binder's threads.
A replica that does not lead keeps its books up to date and decides nothing, so that it can take over within a pass.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry

import forebay
from forebay.kube.client import Client
from forebay.kube.config import ConfigError
from forebay.kube.errors import Unreachable, Unusable
from forebay.kube.eventlog import Note
from forebay.kube.leader import Leader
from forebay.kube.metrics import Collector as KubeCollector
from forebay.kube.objects import Key, Reference
from forebay.kube.recorder import Recorder
from forebay.kube.transport import Transport
from forebay.scheduler.groups import Groups
from forebay.scheduler.live.config import Configuration, Reloader, changed_for_nothing
from forebay.scheduler.live.copies import ANSWERED, Copies, always, rank
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.effects.allocations import Allocations
from forebay.scheduler.live.effects.binder import Binder
from forebay.scheduler.live.effects.gates import Gates
from forebay.scheduler.live.effects.telling import Teller
from forebay.scheduler.live.effects.volumes import Volumes
from forebay.scheduler.live.instructions import Bind, Cancel, Delete, FreeClaim, Instruction, Load, Outcome, Report, Status, Tell
from forebay.scheduler.live.journal import Moment, Told, Writer
from forebay.scheduler.live.metrics import Metrics, Reading

LOG = logging.getLogger(__name__)

LEASE = "forebay-scheduler"
MANAGER = "forebay-scheduler"
NAME = "forebay.io/scheduler"
STALE = 900.0
"""Seconds without a word from the server after which a copy counts as dead, as in the controller."""
IDLE = 1.0
"""Seconds until the deciding thread looks at the clock though nothing came."""
DRAIN = 5000
"""Messages taken in before the next pass: some 0.5 s of events."""
SETTLE = 1.0
"""Seconds between the lease and the first decision."""
LOOK = 2.0
"""Seconds between looks at the configuration file."""
DISCOVER = 30.0
"""Seconds between looks for kinds that were not served."""


class Options(NamedTuple):
    """`namespace`: of the lease, and of Events about the process; `identity`: the pod's name and more; `config`: the file.

    `begun`: called on the deciding thread once the cluster is taken in, before anything is decided. `record`: a journal's file.
    """

    settings: Configuration = Configuration()
    config: Path | None = None
    text: str = ""
    namespace: str = "forebay-system"
    identity: str = ""
    elect: bool = True
    begun: Callable[[], None] = lambda: None
    record: Path | None = None


class _Changed(NamedTuple):
    kind: str
    old: Any
    new: Any


Message = _Changed | Outcome | Configuration | None


class Scheduler:
    """`start`, then `wait` until it is told to `end` or has lost the lease, then `stop`. Not to be started twice."""

    def __init__(self, transport: Transport, options: Options) -> None:
        self.options = options
        self._started = time.monotonic()
        self._inbox = queue.SimpleQueue[Message]()
        self._ended = threading.Event()
        self._led_event = threading.Event()
        self._why = self._defect = ""
        self._leads_from = 0.0
        self._first_seen: dict[str, float] = {}
        self.ready = False
        self._discovered = threading.Event()
        self._transport = transport
        self.copies = Copies(transport, lambda kind, old, new: self._inbox.put(_Changed(kind, old, new)))
        self.leader = (
            Leader(transport, Key(options.namespace, LEASE), options.identity, led=self._led_event.set, lost=self._lost)
            if options.elect
            else None
        )
        gate = self.leader.check if self.leader else None
        self.client = Client(transport, MANAGER, gate=gate)
        self._telling = Client(transport, MANAGER)
        self.recorder = Recorder(self._telling, NAME, options.identity)
        settings = options.settings
        self.teller = Teller(self.client, self.recorder.say, settings.events.scheduled_per_second)
        moment = Moment()
        self.core = Core(settings, Groups(), moment)
        self._told = Told(self.core, moment, Writer(options.record, settings, forebay.__version__) if options.record else None)
        self.binder = Binder(
            self.client,
            Volumes(self.client, settings.volume_deadline_seconds),
            Allocations(self.client, lambda claim: self._inbox.put(_Changed(ANSWERED, None, claim))),
            self._inbox.put,
            self._bound,
            threads=settings.bind_threads,
            rehearse=settings.gangs.rehearse,
            gated=Gates(self.client, time.time).write,
        )
        self.binder.pace(settings.qps, settings.burst)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, settings.scheduler_name, lambda: self.teller.untold)
        self._kube = KubeCollector()
        self.registry.register(self._kube)
        self._kube.add("scheduler", self.client)
        self._kube.add("events", self._telling)
        self._kube.add("scheduler", self.recorder)
        if self.leader is not None:
            self._kube.add(LEASE, self.leader)
        self._reloader = Reloader(options.config, options.text, self._reloaded) if options.config is not None else None
        self._thread = threading.Thread(target=self._run, name="deciding", daemon=True)
        self._keeper = threading.Thread(target=self._keep, name="keeping", daemon=True)

    # --- life ---

    def start(self) -> None:
        self._count(self.copies.watch(always(self.options.settings.unhealthy_gpus)))
        self.recorder.start()
        self.teller.start()
        self.binder.start()
        self._keeper.start()
        self._thread.start()
        if self.leader is not None:
            self.leader.start()
        else:
            self._led_event.set()

    def wait(self) -> str:
        """Returns when it is to end, and says why: "" where somebody asked for it."""
        self._ended.wait()
        return self._why

    def end(self) -> None:
        self._ended.set()

    def stop(self) -> bool:
        """Decisions end first, then bindings under way, then the lease: nobody else decides before. Whether all ended in time."""
        self._ended.set()
        self._inbox.put(None)
        ended = [_join(self._thread), self.binder.stop(), self.teller.stop()]
        if self.leader is not None:
            ended.append(self.leader.stop())
        ended += [_join(self._keeper), self.copies.stop(), self.recorder.stop()]
        return all(ended)

    def _lost(self, why: str) -> None:
        self._why = why
        self._ended.set()

    # --- the deciding thread ---

    def _run(self) -> None:
        try:
            if self._begin():
                self._loop()
            self._told.close()
        except Exception as error:
            self._defect = f"the deciding thread ended by a defect: {error!r}; restart the process"
            LOG.exception("%s", self._defect)
            self._lost(self._defect)
            raise

    def _begin(self) -> bool:
        """Waits for whole copies and takes them in, nodes before pods. False where the end came first."""
        while not (self._discovered.wait(0.1) and self.copies.wait(0.1)):
            if self._ended.is_set():
                return False
        early = sorted(
            (one for one in self._taken(1 << 62) if isinstance(one, _Changed)),
            key=lambda one: rank(one.kind),
        )
        for one in early:
            self._take_safely(one)
        self.options.begun()
        self.ready = True
        LOG.info("copies are whole after %.1f s: %d objects", time.monotonic() - self._started, len(early))
        return True

    def _loop(self) -> None:
        while not self._ended.is_set():
            now = time.monotonic()
            leading = self._leads(now)
            at = self.core.queue.next_at(now) if leading else None
            wait = IDLE if at is None else min(IDLE, max(0.0, at - now))
            for one in self._taken(DRAIN, wait):
                self._take_safely(one)
            if leading and not self._ended.is_set():
                began = time.monotonic()
                instructions = self._told.decide(began)
                if instructions:
                    self.metrics.passes.observe(time.monotonic() - began)
                    self._carry_out(instructions)
            self._show()

    def _leads(self, now: float) -> bool:
        """What whoever led before has bound in its last moment must have come: our watches get that long."""
        if self._led_event.is_set() and self._leads_from == 0.0:
            self._leads_from = now + (SETTLE if self.leader is not None else 0.0)
        return self._led_event.is_set() and now >= self._leads_from

    def _taken(self, most: int, wait: float = 0.0) -> Sequence[Message]:
        """What has come, at most so many."""
        found = list[Message]()
        try:
            if wait:
                found.append(self._inbox.get(timeout=wait))
            while len(found) < most:
                found.append(self._inbox.get_nowait())
        except queue.Empty:
            pass
        return found

    def _take_safely(self, message: Message) -> None:
        """One object that we fail on must not keep all others from being placed: told in log and metrics."""
        try:
            self._take(message)
        except Exception:
            self.metrics.defects += 1
            LOG.exception("what was said could not be taken in: %.300s", message)

    def _take(self, message: Message) -> None:
        if isinstance(message, _Changed):
            if message.kind == "Pod":
                self._clock(message.old, message.new)
            self._told.change(message.kind, message.old, message.new)
        elif isinstance(message, Outcome):
            self._told.outcome(message, time.monotonic())
        elif isinstance(message, Configuration):
            self._configure(message)

    def _clock(self, old: Any, new: Any) -> None:
        """When a pod was first seen without a node, for the metric."""
        if new is None:
            self._first_seen.pop(old.metadata.uid, None)
        elif not new.spec.node_name and new.spec.scheduler_name == self.core.settings.scheduler_name:
            self._first_seen.setdefault(new.metadata.uid, time.monotonic())

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        binds = list[Bind]()
        for one in instructions:
            if isinstance(one, Bind):
                binds.append(one)
            elif isinstance(one, Cancel):
                self.binder.cancel(one.numbers)
            elif isinstance(one, Tell):
                self.teller.tell(one)
            elif isinstance(one, Delete):
                self.teller.delete(one)
            elif isinstance(one, Report):
                self.teller.report(one)
            elif isinstance(one, FreeClaim):
                self.binder.free(one)
            elif isinstance(one, Status):
                self.teller.status(one)
            elif isinstance(one, Load):
                self.teller.order(one)
        self.binder.submit(binds)

    def _bound(self, bind: Bind, seconds: float) -> None:
        """On a binder's thread."""
        self.metrics.bindings.observe(seconds)
        first = self._first_seen.pop(bind.pod.uid, None)
        if first is not None:
            self.metrics.waited.observe(time.monotonic() - first)
        self.teller.scheduled(bind)

    def _show(self) -> None:
        core = self.core
        self.metrics.reading = Reading(
            dict(core.counts.attempts),
            dict(core.counts.outcomes),
            core.queue.counts(),
            len(core.flights),
            core.counts.races,
            core.partials.count,
            core.preemption.victims,
            len(core.books.cluster.row_of),
            core.books.overfull,
        )

    # --- settings and kinds that come later ---

    def _keep(self) -> None:
        """A thread of its own: reads the configuration file and asks which kinds are served."""
        look_at = 0.0
        while not self._ended.is_set():
            now = time.monotonic()
            if now >= look_at:
                look_at = now + DISCOVER
                self._discover()
            if self._reloader is not None:
                self._reloader.look()
            self._ended.wait(LOOK if self._discovered.is_set() else 0.5)

    def _discover(self) -> None:
        try:
            self._count(self.copies.discover())
            self._discovered.set()
        except (Unreachable, Unusable, ConfigError) as error:
            LOG.warning("which kinds are served is not known yet: %s", error)

    def _count(self, informers: Sequence[Any]) -> None:
        for informer in informers:
            self._kube.add(str(informer.resource), informer)

    def _reloaded(self, good: Configuration | None, sentence: str) -> None:
        """On the keeper's thread."""
        self.metrics.reloads["bad" if good is None else "good"] += 1
        if good is None:
            LOG.error("%s", sentence)
            self._say("Warning", "InvalidConfiguration", sentence)
            return
        late = changed_for_nothing(self.core.settings, good)
        if late:
            sentence += f"; {', '.join(late)} count after a restart"
        LOG.info("%s", sentence)
        self._say("Normal", "ConfigurationRead", sentence)
        self._inbox.put(good)

    def _say(self, kind: Any, reason: str, sentence: str) -> None:
        """About ourselves: the lease is the one object that is surely there."""
        lease = Reference("coordination.k8s.io/v1", "Lease", LEASE, self.options.namespace)
        self.recorder.say(Note(lease, kind, reason, "Configuring", sentence[:1000]))

    def _configure(self, settings: Configuration) -> None:
        self._told.configure(settings)
        self.binder.rehearse = settings.gangs.rehearse
        self.binder.pace(settings.qps, settings.burst)
        self.teller.set_rate(settings.events.scheduled_per_second)

    # --- health ---

    def unhealthy(self) -> str:
        """What only a new start mends."""
        if self._defect or self.binder.defect:
            return self._defect or self.binder.defect
        for name, informer in list(self.copies.informers.items()):
            health = informer.health()
            if not health.alive:
                return f"the copy of {name} is not kept any more: {health.problem or 'its thread has ended'}"
            if health.synced and health.age > STALE:
                return f"nothing was heard of {name} for {health.age:.0f} s: {health.problem}"
        return ""

    def unready(self) -> str:
        """What is missing until decisions can begin."""
        if self.ready:
            return ""
        missing = self.copies.unsynced()
        return "; ".join(f"the copy of {name} is not whole yet{f': {why}' if why else ''}" for name, why in missing) or "starting"


def _join(thread: threading.Thread, timeout: float = 10.0) -> bool:
    if thread.ident is not None:
        thread.join(timeout)
    return not thread.is_alive()
