"""The copy of a collection that reconcilers read: objects by key and by index. Written by one reflector, read by many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from forebay.kube.objects import Key

T = TypeVar("T")

Indexer = Callable[[T], Iterable[str]]
"""The values under which an object is found: pure; called once for each new version."""


class Broken(NamedTuple):
    """An object whose body does not fit our struct: it exists, and `why` says what is wrong with it."""

    version: str
    why: str


class Undecodable(Exception):
    """The object exists, but cannot be read. Nothing may be concluded from its absence in `Store.values`."""


class Change(NamedTuple, Generic[T]):
    """What happened to `key`. `old` None: it is new here. `new` None: it is gone, or no longer selected."""

    key: Key
    old: T | None
    new: T | None


class Store(Generic[T]):
    """See the module.

    Invariants: an object is under exactly the index values that its indexers gave for the version that is held; a key is
    held or broken, never both; subscribers are told of each change once, in order, on the writer's thread, after the
    change can be read (one that subscribes while changes come may be told of a key twice at the beginning, never too
    seldom). A subscriber must not block and must not raise: it puts keys on a queue.
    """

    def __init__(self, indexers: Mapping[str, Indexer[T]] | None = None) -> None:
        self._lock = threading.Lock()
        self._indexers = dict(indexers or {})
        self._objects: dict[Key, T] = {}
        self._broken: dict[Key, Broken] = {}
        self._places: dict[Key, list[tuple[str, str]]] = {}
        self._index: dict[str, dict[str, dict[Key, None]]] = {name: {} for name in self._indexers}
        self._subscribers: list[Callable[[Change[T]], None]] = []

    def subscribe(self, told: Callable[[Change[T]], None]) -> None:
        """Tells `told` of everything that is held, as new, and of all changes from then on."""
        with self._lock:
            self._subscribers.append(told)
            changes = [Change(key, None, thing) for key, thing in self._objects.items()]
            changes += [Change(key, None, None) for key in self._broken]
        for change in changes:
            told(change)

    # --- the writer ---

    def upsert(self, key: Key, thing: T | Broken) -> None:
        places = [] if isinstance(thing, Broken) else self._places_of(thing)
        with self._lock:
            old = self._objects.pop(key, None)
            self._broken.pop(key, None)
            self._unindex(key)
            if isinstance(thing, Broken):
                self._broken[key] = thing
            else:
                self._objects[key] = thing
                self._places[key] = places
                for name, value in places:
                    self._index[name].setdefault(value, {})[key] = None
        self._tell(Change(key, old, None if isinstance(thing, Broken) else thing))

    def remove(self, key: Key) -> None:
        with self._lock:
            old = self._objects.pop(key, None)
            self._broken.pop(key, None)
            self._unindex(key)
        self._tell(Change(key, old, None))

    def _places_of(self, thing: T) -> list[tuple[str, str]]:
        return [(name, value) for name, indexer in self._indexers.items() for value in dict.fromkeys(indexer(thing))]

    def _unindex(self, key: Key) -> None:
        for name, value in self._places.pop(key, ()):
            keys = self._index[name][value]
            del keys[key]
            if not keys:
                del self._index[name][value]

    def _tell(self, change: Change[T]) -> None:
        for told in tuple(self._subscribers):
            told(change)

    # --- readers ---

    def get(self, key: Key) -> T | None:
        """The object, or None when it does not exist. Raises Undecodable when it exists and cannot be read."""
        with self._lock:
            if broken := self._broken.get(key):
                raise Undecodable(f"{key}: {broken.why}; correct the object, its version {broken.version} cannot be read")
            return self._objects.get(key)

    def values(self) -> list[T]:
        """All objects that can be read."""
        with self._lock:
            return list(self._objects.values())

    def all_keys(self) -> list[Key]:
        """All keys, of broken objects too."""
        with self._lock:
            return [*self._objects, *self._broken]

    def broken(self) -> dict[Key, Broken]:
        with self._lock:
            return dict(self._broken)

    def where(self, index: str, value: str) -> list[T]:
        """The objects that the indexer called `index` put under `value`. Raises KeyError for an index that is not kept."""
        with self._lock:
            return [self._objects[key] for key in self._index[index].get(value, ())]

    def index_values(self, index: str) -> list[str]:
        """The values under which there is anything."""
        with self._lock:
            return list(self._index[index])

    def __len__(self) -> int:
        with self._lock:
            return len(self._objects) + len(self._broken)
