"""Controller: volumes of a StorageClass, each of which shows a dataset that exists.

parameters:
    forebay.io/dataset    NAMESPACE/NAME of the dataset
    forebay.io/config     its ConfigMap, if not `<name>-forebay`
    forebay.io/service    its workers' Service, if not `svc-<name>-worker`
    fluid_sub_path, forebay.io/clean-policy    as of any volume (docs/csi.md)

No bytes are made or taken: a volume is a name for a dataset's tree. They are remembered in files, to compare
repeated calls with.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping

import msgspec

from forebay.fuse.csi.protocol import attributes, checks
from forebay.fuse.csi.protocol import messages as m
from forebay.fuse.csi.protocol.proto import Empty, Message, encode
from forebay.fuse.csi.protocol.refusal import Refusal, malformed
from forebay.fuse.csi.protocol.rpc import Busy, Method
from forebay.fuse.csi.volumes.source import Source
from forebay.fuse.supervision import rundir

NAME_MOST = 128
PARAMETERS = frozenset((attributes.DATASET, attributes.CONFIG, attributes.SERVICE, attributes.SUB_PATH, attributes.CLEAN))


class Made(msgspec.Struct, frozen=True):
    """A volume that was created."""

    id: str
    name: str
    digest: str
    capacity: int
    context: dict[str, str]


class Controller:
    """`folder` holds the volumes that were created."""

    def __init__(self, source: Source, folder: str) -> None:
        self._source = source
        self._folder = folder
        self._lock = threading.Lock()
        self._busy = Busy()
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def methods(self) -> Mapping[str, Method]:
        return {
            f"{m.CONTROLLER}/ControllerGetCapabilities": Method(Empty, self.capabilities),
            f"{m.CONTROLLER}/CreateVolume": Method(m.CreateVolume, self.create),
            f"{m.CONTROLLER}/DeleteVolume": Method(m.DeleteVolume, self.delete),
            f"{m.CONTROLLER}/ValidateVolumeCapabilities": Method(m.Validate, self.validate),
        }

    def capabilities(self, _: Empty) -> m.Capabilities:
        return m.Capabilities([m.Capability(m.Kind(rpc)) for rpc in m.ControllerRpc])

    def create(self, r: m.CreateVolume) -> m.CreatedVolume:
        name = checks.needed("name", r.name)
        checks.capabilities(r.volume_capabilities)
        checks.bounded("parameters", r.parameters)
        if r.volume_content_source is not None:
            raise malformed("volume_content_source", "is not served: a volume shows a dataset, and has no content of its own")
        capacity = _capacity(r.capacity_range)
        wanted = _parameters(r.parameters)
        digest = attributes.digest(wanted, capacity, [encode(c).hex() for c in r.volume_capabilities])
        with self._busy.hold(f"volume {name}"):
            id_ = f"{wanted.id}/{hashlib.sha256(name.encode()).hexdigest()[:16]}"
            for before in self._all():
                if before.name == name:
                    if before.digest != digest:
                        raise Refusal(
                            "ALREADY_EXISTS", f"volume {name} exists with other parameters, capabilities or size: delete it first"
                        )
                    return _created(before)
            self._source.config(wanted.namespace, wanted.config)  # NOT_FOUND for a dataset that is not there
            made = Made(id_, name, digest, capacity, _context(wanted))
            with self._lock:
                rundir.replace_file(self._file(id_), msgspec.json.encode(made))
            return _created(made)

    def delete(self, r: m.DeleteVolume) -> Message:
        id_ = checks.needed("volume_id", r.volume_id)
        with self._busy.hold(f"volume {id_}"), self._lock:
            try:
                os.unlink(self._file(id_))
            except FileNotFoundError:
                pass  # deleted before: that is what was asked for
        return Empty()

    def validate(self, r: m.Validate) -> m.Validated:
        id_ = checks.needed("volume_id", r.volume_id)
        if not r.volume_capabilities:
            raise malformed("volume_capabilities", "is missing")
        made = next((v for v in self._all() if v.id == id_), None)
        if made is None:
            raise Refusal("NOT_FOUND", f"there is no volume {id_}")
        try:
            checks.capabilities(r.volume_capabilities)
        except Refusal as e:
            return m.Validated(None, str(e))
        if r.volume_context and dict(r.volume_context) != made.context:
            return m.Validated(None, "volume_context is not that of the volume")
        return m.Validated(m.Confirmed(r.volume_context, r.volume_capabilities, r.parameters))

    def _file(self, id_: str) -> str:
        return f"{self._folder}/{hashlib.sha256(id_.encode()).hexdigest()[:40]}.json"

    def _all(self) -> list[Made]:
        with self._lock:
            found = []
            for entry in sorted(os.listdir(self._folder)):
                if entry.endswith(".json"):
                    with open(f"{self._folder}/{entry}", "rb") as f:
                        found.append(msgspec.json.decode(f.read(), type=Made))
            return found


def _capacity(asked: m.CapacityRange | None) -> int:
    """Bytes to state for a volume. A dataset has no size of its own: whatever is asked for is right."""
    if asked is None:
        return 0
    if asked.required_bytes < 0 or asked.limit_bytes < 0:
        raise malformed("capacity_range", "is negative")
    if asked.limit_bytes and asked.required_bytes > asked.limit_bytes:
        raise Refusal("OUT_OF_RANGE", "capacity_range: required_bytes is more than limit_bytes")
    return asked.required_bytes or asked.limit_bytes


def _parameters(found: Mapping[str, str]) -> attributes.ClaimVolume:
    own = {k: v for k, v in found.items() if not k.startswith(attributes.KUBELETS)}
    if unknown := sorted(own.keys() - PARAMETERS):
        raise malformed("parameters", f"{unknown[0]!r} is unknown; known are {', '.join(sorted(PARAMETERS))}")
    return attributes.claim(own)


def _context(wanted: attributes.ClaimVolume) -> dict[str, str]:
    found = {
        attributes.DATASET: wanted.id,
        attributes.CONFIG: wanted.config,
        attributes.SERVICE: wanted.service,
        attributes.CLEAN: wanted.clean_policy,
    }
    return {**found, attributes.SUB_PATH: wanted.sub_path} if wanted.sub_path else found


def _created(made: Made) -> m.CreatedVolume:
    return m.CreatedVolume(m.Volume(made.capacity, made.id, made.context))
