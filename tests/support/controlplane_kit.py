"""What tests with a real API server share: objects to write, waiting, a copy that is watched over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import msgspec

from forebay.kube.client import Client
from forebay.kube.errors import ServerError, TooMany, Unreachable
from forebay.kube.informer import Informer, Selection
from forebay.kube.objects import Key, ObjectMeta
from forebay.kube.resources import CONFIG_MAPS
from forebay.kube.store import Change, Store
from forebay.kube.transport import Transport


class Map(msgspec.Struct, frozen=True):
    """A ConfigMap."""

    metadata: ObjectMeta
    data: dict[str, str] = {}


def config_map(name: str, value: str = "", labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or {}}, "data": {"value": value}}


def until(condition: Callable[[], object], seconds: float = 60.0, what: str | Callable[[], object] = "") -> None:
    """Polls. Raises with `what` when it does not hold in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not after {seconds:.0f} s: {what() if callable(what) else what or condition}"
        time.sleep(0.01)


class Watched:
    """A store with its informer, and all that it told. Must be asked `check` at the end."""

    def __init__(
        self,
        transport: Transport,
        namespace: str,
        *,
        page: int = 500,
        labels: str = "",
        seed: int = 1,
        longest_pause: float = 30.0,
    ) -> None:
        self.store = Store[Map]({"value": _value})
        self.changes: list[Change[Map]] = []
        self.store.subscribe(self.changes.append)
        self.informer = Informer(
            transport,
            CONFIG_MAPS,
            Map,
            self.store,
            Selection(namespace, labels=labels),
            page=page,
            random=Random(seed),
            longest_pause=longest_pause,
        )

    def __enter__(self) -> Watched:
        self.informer.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.informer.stop(), "the informer does not end"

    def versions(self) -> dict[Key, str]:
        return {
            Key(thing.metadata.namespace, thing.metadata.name): thing.metadata.resource_version for thing in self.store.values()
        }

    def equals(self, client: Client, namespace: str, labels: str = "") -> bool:
        """Whether the copy is what the server has at this moment."""
        return self.versions() == truth(client, namespace, labels)

    def check(self) -> None:
        """Nothing was told twice, and the changes told lead to what is held."""
        model: dict[Key, str] = {}
        for change in self.changes:
            was = change.old.metadata.resource_version if change.old else None
            assert was == model.get(change.key), f"told from another state: {change}"
            if change.new is None:
                assert was is not None, f"{change.key} removed twice"
                del model[change.key]
            else:
                assert change.new.metadata.resource_version != was, f"told twice: {change}"
                model[change.key] = change.new.metadata.resource_version
        assert model == self.versions()


def _value(thing: Map) -> Iterable[str]:
    return [thing.data.get("value", "")]


def truth(client: Client, namespace: str, labels: str = "") -> dict[Key, str]:
    things, _ = client.list_all(CONFIG_MAPS, Map, namespace, labels=labels)
    return {Key(thing.metadata.namespace, thing.metadata.name): thing.metadata.resource_version for thing in things}


class Writer:
    """A thread that creates, changes and deletes ConfigMaps until told to stop, `pause` seconds apart."""

    def __init__(self, client: Client, namespace: str, seed: int, names: int = 30, pause: float = 0.002) -> None:
        self._client, self._namespace, self._random = client, namespace, Random(seed)
        self._names, self._pause = names, pause
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.writes = 0
        self.failed: list[str] = []
        self.crash: BaseException | None = None

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.crash is not None:
            raise self.crash

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._pause):
                self._write()
        except BaseException as error:  # noqa: BLE001  raised again by __exit__
            self.crash = error

    def _write(self) -> None:
        name = f"m{self._random.randrange(self._names)}"
        key = Key(self._namespace, name)
        try:
            if self._random.random() < 0.35:
                self._client.delete(CONFIG_MAPS, key)
            else:
                self._client.apply(CONFIG_MAPS, key, config_map(name, str(self._random.randrange(1000))))
            self.writes += 1
        except (Unreachable, ServerError, TooMany) as error:  # a server that restarts: the next write is another
            self.failed.append(str(error))
