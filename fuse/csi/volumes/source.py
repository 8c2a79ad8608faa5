"""Where the node plugin learns of datasets: an API server, or a folder where there is none (another orchestrator, tests).

    FOLDER/<namespace>/<ConfigMap>.json      the configuration, as the ConfigMap has it under `config.json`
    FOLDER/<namespace>/<Service>.members     the member list (YAML or JSON, docs/cluster.md)

Everything that is watched is *looked at*: a look never blocks, and gives what is known now, so nothing depends on events.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from forebay.api import podconfig
from forebay.api.spec import DatasetSpec
from forebay.cache.members.roster import Listed, parse_members
from forebay.fuse.csi.protocol.refusal import Refusal
from forebay.fuse.csi.volumes.members import Members, Slice
from forebay.kube.client import Client
from forebay.kube.errors import ApiError, NotFound, Unreachable, Unusable
from forebay.kube.informer import Informer, Selection
from forebay.kube.objects import Key, ObjectMeta
from forebay.kube.resources import CONFIG_MAPS, ENDPOINT_SLICES, NODES
from forebay.kube.store import Store
from forebay.kube.transport import Transport

SERVICE_NAME = "kubernetes.io/service-name"
CALL = 5.0
"""Seconds of one call to the API server while kubelet waits."""
T = TypeVar("T")


class Seen(NamedTuple, Generic[T]):
    """What a look found. `known` false: nobody could be asked yet, and nothing follows. `value` None: certainly absent."""

    known: bool
    value: T | None


class Look(Protocol[T]):
    """Something that is followed."""

    def look(self) -> Seen[T]: ...
    def problem(self) -> str:
        """Why nothing is known, "" where there is no reason to give."""
        ...

    def stop(self) -> None: ...


class Source(Protocol):
    """Where datasets are known."""

    def config(self, namespace: str, name: str) -> bytes:
        """Raises `Refusal`: NOT_FOUND only where it is certain, else UNAVAILABLE."""
        ...

    def members(self, namespace: str, service: str) -> list[Listed]:
        """Who serves a dataset now. Raises `Refusal` (UNAVAILABLE) where nobody can say."""
        ...

    def follow_config(self, namespace: str, name: str) -> Look[bytes]: ...
    def follow_members(self, namespace: str, service: str, known: list[str]) -> Look[list[Listed]]: ...
    def follow_cordon(self, node: str) -> Look[bool]: ...


def spec_of(raw: bytes) -> tuple[DatasetSpec, int]:
    """What a configuration shows of a dataset to who talks to no store, and the bytes that a node may keep of it for its readers,
    0 where it does not say. Raises `Refusal`."""
    try:
        config = podconfig.decode(raw)
        return podconfig.public(config), config.reader_quota
    except ValueError as e:
        raise Refusal("FAILED_PRECONDITION", f"{podconfig.FILE} of the dataset: {e}") from None


def revision_of(raw: bytes) -> str:
    """What workers call a configuration that they serve. Raises `Refusal`."""
    try:
        return podconfig.revision(podconfig.decode(raw))
    except ValueError as e:
        raise Refusal("FAILED_PRECONDITION", f"{podconfig.FILE} of the dataset: {e}") from None


def _absent(namespace: str, name: str) -> Refusal:
    return Refusal(
        "NOT_FOUND", f"ConfigMap {name} in namespace {namespace} is not there: the dataset was deleted, or is not set up yet"
    )


# --- an API server


class ConfigMap(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    data: dict[str, str] | None = None


class _NodeSpec(msgspec.Struct, frozen=True):
    unschedulable: bool = False


class Node(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    spec: _NodeSpec = _NodeSpec()


class _ConfigObject:
    def __init__(self, transport: Transport, namespace: str, name: str) -> None:
        self._key = Key(namespace, name)
        self._store = Store[ConfigMap]()
        self._informer = Informer(
            transport, CONFIG_MAPS, ConfigMap, self._store, Selection(namespace, fields=f"metadata.name={name}")
        )
        self._informer.start()

    def look(self) -> Seen[bytes]:
        if not self._informer.wait_synced(0):
            return Seen(False, None)
        found = self._store.get(self._key)
        if found is None:
            return Seen(True, None)
        text = (found.data or {}).get(podconfig.FILE)
        return Seen(text is not None, None if text is None else text.encode())

    def problem(self) -> str:
        return self._informer.health().problem

    def stop(self) -> None:
        _stop(self._informer.stop)


class _Members:
    def __init__(self, transport: Transport, namespace: str, service: str, known: list[str]) -> None:
        self._members = Members(known)
        self._store = Store[Slice]()
        labels = f"{SERVICE_NAME}={service}"
        self._informer = Informer(transport, ENDPOINT_SLICES, Slice, self._store, Selection(namespace, labels=labels))
        self._informer.start()

    def look(self) -> Seen[list[Listed]]:
        if not self._informer.wait_synced(0):
            return Seen(False, None)
        return Seen(True, self._members.listed(self._store.values()))

    def problem(self) -> str:
        return self._informer.health().problem

    def stop(self) -> None:
        _stop(self._informer.stop)


class _Cordon:
    def __init__(self, transport: Transport, node: str) -> None:
        self._key = Key("", node)
        self._store = Store[Node]()
        self._informer = Informer(transport, NODES, Node, self._store, Selection(fields=f"metadata.name={node}"))
        self._informer.start()

    def look(self) -> Seen[bool]:
        if not self._informer.wait_synced(0):
            return Seen(False, None)
        found = self._store.get(self._key)
        return Seen(True, None if found is None else found.spec.unschedulable)

    def problem(self) -> str:
        return self._informer.health().problem

    def stop(self) -> None:
        _stop(self._informer.stop)


def _stop(stop: object) -> None:
    """Ends an informer beside us: interrupting its request may take a moment that no call shall wait for."""
    threading.Thread(target=stop, name="informer-end", daemon=True).start()  # type: ignore[arg-type]


class ApiSource:
    """Datasets of a cluster."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._client = Client(transport, manager="forebay-node", deadline=CALL)

    def config(self, namespace: str, name: str) -> bytes:
        try:
            found = self._client.get(CONFIG_MAPS, Key(namespace, name), ConfigMap)
        except NotFound:
            raise _absent(namespace, name) from None
        except (ApiError, Unreachable, Unusable) as e:
            raise Refusal("UNAVAILABLE", f"ConfigMap {name} in namespace {namespace} cannot be read: {e}") from None
        text = (found.data or {}).get(podconfig.FILE)
        if text is None:
            raise Refusal("FAILED_PRECONDITION", f"ConfigMap {name} in namespace {namespace} has no key {podconfig.FILE}")
        return text.encode()

    def members(self, namespace: str, service: str) -> list[Listed]:
        try:
            slices, _ = self._client.list_all(ENDPOINT_SLICES, Slice, namespace, labels=f"{SERVICE_NAME}={service}")
        except (ApiError, Unreachable, Unusable) as e:
            raise Refusal("UNAVAILABLE", f"EndpointSlices of Service {service} in namespace {namespace}: {e}") from None
        return Members().listed(slices)

    def follow_config(self, namespace: str, name: str) -> Look[bytes]:
        return _ConfigObject(self._transport, namespace, name)

    def follow_members(self, namespace: str, service: str, known: list[str]) -> Look[list[Listed]]:
        return _Members(self._transport, namespace, service, known)

    def follow_cordon(self, node: str) -> Look[bool]:
        return _Cordon(self._transport, node)


# --- a folder


class _ConfigFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def look(self) -> Seen[bytes]:
        try:
            return Seen(True, self._path.read_bytes())
        except FileNotFoundError:
            return Seen(self._path.parent.parent.is_dir(), None)  # without the folder itself nothing is certain
        except OSError:
            return Seen(False, None)

    def problem(self) -> str:
        return ""

    def stop(self) -> None:
        return


class _MembersFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def look(self) -> Seen[list[Listed]]:
        try:
            return Seen(True, parse_members(self._path.read_bytes()))
        except (OSError, ValueError):
            return Seen(False, None)

    def problem(self) -> str:
        return ""

    def stop(self) -> None:
        return


class _Never:
    def look(self) -> Seen[bool]:
        return Seen(True, False)

    def problem(self) -> str:
        return ""

    def stop(self) -> None:
        return


class FolderSource:
    """Datasets of a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise OSError(f"--datasets {folder} is no directory")

    def _at(self, namespace: str, name: str) -> Path:
        return self._folder / os.path.basename(namespace) / os.path.basename(name)

    def config(self, namespace: str, name: str) -> bytes:
        seen = self.follow_config(namespace, name).look()
        if seen.value is not None:
            return seen.value
        if seen.known:
            raise _absent(namespace, name)
        raise Refusal("UNAVAILABLE", f"{self._at(namespace, name)}.json cannot be read")

    def members(self, namespace: str, service: str) -> list[Listed]:
        path = self._at(namespace, f"{service}.members")
        try:
            return parse_members(path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as e:
            raise Refusal("UNAVAILABLE", f"{path}: {e}") from None

    def follow_config(self, namespace: str, name: str) -> Look[bytes]:
        return _ConfigFile(self._at(namespace, f"{name}.json"))

    def follow_members(self, namespace: str, service: str, known: list[str]) -> Look[list[Listed]]:
        return _MembersFile(self._at(namespace, f"{service}.members"))

    def follow_cordon(self, node: str) -> Look[bool]:
        return _Never()
