"""One thread that does what its reflector says: requests, sleeps, and changes to a store. Decides nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Generic, NamedTuple, TypeVar

from forebay.kube import reflector as r
from forebay.kube.config import ConfigError
from forebay.kube.decoding import Decoder
from forebay.kube.errors import Unreachable, Unusable, error_of, status_of
from forebay.kube.objects import Bare, Named
from forebay.kube.pacing import LAST, Backoff
from forebay.kube.resources import Resource
from forebay.kube.store import Broken, Store
from forebay.kube.transport import BIGGEST, JSON, Stream, Transport

N = TypeVar("N", bound=Named)

LOG = logging.getLogger(__name__)

LIST_DEADLINE = 60.0
OPEN_DEADLINE = 30.0
"""Seconds for a page, and for the head of a watch's answer."""
ONLY_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class Selection(NamedTuple):
    """What of a kind is copied: one namespace or all, and the server's own selectors."""

    namespace: str = ""
    labels: str = ""
    fields: str = ""


EVERYTHING = Selection()


class Health(NamedTuple):
    """`age`: seconds since the server last said anything: about a minute where bookmarks come, up to ten and a quarter
    minutes, a watch's whole life, for a collection that did not change since the API server started. More is stale.

    `alive` false: the thread ended by a defect, and the copy is not kept any more. `problem`: "" when all is well.
    """

    alive: bool
    synced: bool
    age: float
    problem: str
    objects: int
    broken: int
    lists: int
    watches: int


class Informer(Generic[N]):
    """Keeps `store` equal to what the server has of `resource`, as structs of `type_`.

    With `type_` `Bare` only metadata is asked for: a fraction of the bytes for pods and nodes. `longest_pause`: seconds
    between tries of a server that goes on failing.
    """

    def __init__(
        self,
        transport: Transport,
        resource: Resource,
        type_: type[N],
        store: Store[N],
        selection: Selection = EVERYTHING,
        *,
        page: int = r.PAGE,
        random: Random | None = None,
        longest_pause: float = LAST,
    ) -> None:
        self.resource, self.store, self.selection = resource, store, selection
        self._transport = transport
        self._decoder = Decoder(type_)
        self._bare = type_ is Bare
        random = random or Random()
        self._machine = r.Reflector[N | Broken](random, page, Backoff(random, last=longest_pause))
        self._path = resource.path(selection.namespace)
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._stopping = threading.Event()
        self._synced = threading.Event()
        self._crash = ""
        self._thread = threading.Thread(target=self._run, name=f"informer-{resource}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_synced(self, timeout: float) -> bool:
        """Whether the store held a whole list within `timeout` seconds."""
        return self._synced.wait(timeout)

    def stop(self, timeout: float = 10.0) -> bool:
        """Whether the thread ended in time. What it waits for is interrupted."""
        self._stopping.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        return self._transport.end(self._thread, timeout)

    def health(self) -> Health:
        machine = self._machine
        return Health(
            alive=self._thread.is_alive() and not self._crash,
            synced=machine.synced,
            age=time.monotonic() - machine.heard,
            problem=self._crash or machine.problem,
            objects=len(self.store),
            broken=len(self.store.broken()),
            lists=machine.listed,
            watches=machine.watched,
        )

    # --- the thread ---

    def _run(self) -> None:
        try:
            event: r.Event[N | Broken] | None = r.Start(time.monotonic())
            while event is not None and not self._stopping.is_set():
                request = self._take(event)
                if isinstance(request, r.List):
                    event = self._list(request)
                elif isinstance(request, r.Watch):
                    event = self._watch(request)
                elif isinstance(request, r.Sleep):
                    event = self._sleep(request)
                else:
                    event = None
        except Exception as error:
            self._crash = f"the copy of {self.resource} is not kept any more: {error!r}; restart the process"
            LOG.exception("%s", self._crash)
            raise

    def _take(self, event: r.Event[N | Broken]) -> r.List | r.Watch | r.Sleep | None:
        """Tells the machine, does to the store what it says, and returns what is to be waited for, if anything."""
        request: r.List | r.Watch | r.Sleep | None = None
        for instruction in self._machine.handle(event):
            if isinstance(instruction, r.Upsert):
                self.store.upsert(instruction.key, instruction.object)
            elif isinstance(instruction, r.Remove):
                self.store.remove(instruction.key)
            elif isinstance(instruction, r.Synced):
                self._synced.set()
            else:
                request = instruction
        return request

    def _sleep(self, sleep: r.Sleep) -> r.Tick:
        LOG.info("%s: %s; again in %.1f s", self.resource, sleep.why, sleep.until - time.monotonic())
        self._stopping.wait(max(0.0, sleep.until - time.monotonic()))
        return r.Tick(time.monotonic())

    def _query(self, *more: tuple[str, str]) -> list[tuple[str, str]]:
        out = [("labelSelector", self.selection.labels), ("fieldSelector", self.selection.fields)]
        return [*((name, value) for name, value in out if value), *more]

    def _list(self, ask: r.List) -> r.Event[N | Broken]:
        query = self._query()
        if ask.limit:
            query.append(("limit", str(ask.limit)))
        if ask.token:
            query.append(("continue", ask.token))
        accept = ONLY_METADATA.format("List") if self._bare else JSON
        try:
            answer = self._transport.request("GET", self._path, query, accept=accept, deadline=LIST_DEADLINE)
            if answer.code != 200:
                return r.Ended(self._failure(answer.code, answer.body, answer.retry_after), time.monotonic())
            return self._decoder.page(answer.body).event(time.monotonic())
        except (Unreachable, Unusable, ConfigError) as error:
            return r.Ended(r.Failure(0, str(error)), time.monotonic())

    def _failure(self, code: int, body: bytes, retry_after: float | None) -> r.Failure:
        status = status_of(code, body)
        if retry_after is None and status.details and status.details.retry_after_seconds:
            retry_after = float(status.details.retry_after_seconds)
        return r.Failure(code, str(error_of(f"GET {self._path}", status)), retry_after)

    def _watch(self, ask: r.Watch) -> r.Event[N | Broken] | None:
        """Opens and reads one watch; says how it ended, or None when we are stopping."""
        query = self._query(
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", ask.version),
            ("timeoutSeconds", str(int(ask.seconds))),
        )
        accept = ONLY_METADATA.format("") if self._bare else JSON
        longest = ask.seconds + 2 * r.GRACE  # a stream that is silent to its end is found by its silence, and is called so
        try:
            stream = self._transport.stream(self._path, query, accept=accept, deadline=OPEN_DEADLINE, longest=longest)
        except (Unreachable, ConfigError) as error:
            return r.Ended(r.Failure(0, str(error)), time.monotonic())
        with self._lock:
            self._stream = stream
            if self._stopping.is_set():  # `stop` came before there was anything to close
                stream.close()
        try:
            return self._read(stream, ask.silence)
        finally:
            with self._lock:
                self._stream = None
            stream.close()

    def _read(self, stream: Stream, silence: float) -> r.Event[N | Broken] | None:
        try:
            if stream.code != 200:
                body = b"".join(_pieces(stream, OPEN_DEADLINE))
                return r.Ended(self._failure(stream.code, body, stream.retry_after), time.monotonic())
            self._take(r.Opened(time.monotonic()))
            for line in _lines(stream, silence):
                event = self._decoder.line(line, time.monotonic())
                if self._stopping.is_set():
                    return None
                if isinstance(event, r.Ended):
                    return event
                self._take(event)
        except Unreachable as error:
            return r.Ended(r.Failure(0, str(error)), time.monotonic())
        except Unusable as error:  # an answer, and a bad one: three of them and the reflector lists instead
            return r.Ended(r.Failure(500, str(error)), time.monotonic())
        return r.Ended(None, time.monotonic())


def _pieces(stream: Stream, silence: float) -> Iterator[bytes]:
    """A refusal's body, as much of it as a sentence can need."""
    left = 1 << 16
    while left > 0 and (piece := stream.read(silence)):
        left -= len(piece)
        yield piece


def _lines(stream: Stream, silence: float) -> Iterator[bytes]:
    """Whole lines. What is left without its end when the stream is over was cut off, and comes again with the next watch."""
    kept = bytearray()
    while piece := stream.read(silence):
        kept += piece
        if b"\n" not in piece:
            if len(kept) > BIGGEST:
                raise Unusable(f"a line of the watch has more than {BIGGEST} bytes")
            continue
        *whole, rest = kept.split(b"\n")
        kept = bytearray(rest)
        for line in whole:
            if line:
                yield bytes(line)
