"""What a pass writes, and what it does not because it is so already. Every write is tied to the object that was seen: by its
uid, so that nothing is done to a successor of the same name."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

from forebay.controller.comparing import digest, holds, same_status, signed, surplus
from forebay.controller.kinds import RESOURCES
from forebay.kube.client import Client
from forebay.kube.errors import AlreadyExists, Conflict, NotFound
from forebay.kube.objects import Key
from forebay.runtimes.engine import LEAVING, REVISION, Object, Ref

LOG = logging.getLogger(__name__)

REMEMBERED = 50_000
"""Objects whose last apply is remembered; the oldest go first, and are applied once more in vain."""


class Writer:
    """Thread-safe. Raises what `Client` raises; a Conflict means that the object is not the one that was seen."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._settled: OrderedDict[tuple[str, Key, str], tuple[str, str]] = OrderedDict()

    # --- objects ---

    def create(self, obj: Object) -> None:
        """Once: that it exists is as good."""
        try:
            self._client.create(RESOURCES[obj["kind"]], obj["metadata"]["namespace"], obj)
            LOG.info("made %s %s", obj["kind"], key_of(obj))
        except AlreadyExists:
            LOG.debug("%s %s exists", obj["kind"], obj["metadata"]["name"])

    def apply(self, obj: Object, live: Object | None) -> bool:
        """Whether anything was sent. `live`: what the copies have of it, None if nothing."""
        if obj["metadata"].get("uid"):  # a mark on a user's object
            body = obj
        else:
            body = signed(obj)
        said = digest(body)
        if holds(live, body) or self._is_settled(obj, live, "", said):
            return False
        made = self._client.apply(RESOURCES[obj["kind"]], key_of(obj), body)
        LOG.info("applied %s %s%s", obj["kind"], key_of(obj), "" if live else ", which was not there")
        self._remember(obj, "", said, made.metadata.resource_version)
        return True

    def status(self, obj: Object, status: msgspec.Struct) -> bool:
        """Whether the status of `obj`, as the copies have it, had to be written."""
        wanted: Object = json.loads(msgspec.json.encode(status))
        said = digest(wanted)
        if same_status(obj.get("status"), wanted):
            return False
        if self._is_settled(obj, obj, "status", said):
            return self._clear(obj, wanted, said)
        meta = {k: obj["metadata"][k] for k in ("name", "namespace", "uid")}
        body = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": meta, "status": wanted}
        try:
            made = self._client.apply_status(RESOURCES[obj["kind"]], key_of(obj), body)
        except NotFound:
            return False  # it went meanwhile
        LOG.info("status of %s %s: %s", obj["kind"], key_of(obj), wanted.get("phase") or wanted.get("workerPhase", ""))
        self._remember(obj, "status", said, made.metadata.resource_version)
        if made.metadata.resource_version == meta_version(obj):  # it changed nothing, so nobody would tell of it
            return self._clear(obj, wanted, said)
        return True

    def _clear(self, obj: Object, wanted: Object, said: str) -> bool:
        """Takes away what others wrote into a status and an apply of ours leaves: fields in which we have nothing to say."""
        more = surplus(obj.get("status"), wanted)
        if not more or self._is_settled(obj, obj, "surplus", said):
            return False
        body = {"metadata": {"uid": obj["metadata"]["uid"]}, "status": more}
        try:
            made = self._client.merge(RESOURCES[obj["kind"]], key_of(obj), body, sub="status")
        except NotFound:
            return False  # it went meanwhile
        LOG.info("status of %s %s: not ours, and not so: %s", obj["kind"], key_of(obj), ", ".join(more))
        self._remember(obj, "surplus", said, made.metadata.resource_version)
        return True

    def delete(self, ref: Ref, uid: str) -> None:
        try:
            self._client.delete(RESOURCES[ref.kind], Key(ref.namespace, ref.name), uid=uid)
            LOG.info("deleted %s", ref)
        except Conflict:
            LOG.info("%s is another one by now, and is left alone", ref)

    def leave(self, namespace: str, pod: str, uid: str, since: str) -> None:
        """Tells a worker to hand out what it owns: an annotation of its pod, which it has as a file."""
        body = {"metadata": {"uid": uid, "annotations": {LEAVING: since}}}
        self._client.merge(RESOURCES["Pod"], Key(namespace, pod), body)
        LOG.info("told worker %s/%s to hand out what it owns", namespace, pod)

    def nudge(self, namespace: str, pod: str, uid: str, revision: str) -> None:
        """Has the kubelet look at a worker's ConfigMaps. A pod that went, or is another by now, has read them when it started."""
        body = {"metadata": {"uid": uid, "annotations": {REVISION: revision}}}
        try:
            self._client.merge(RESOURCES["Pod"], Key(namespace, pod), body)
        except (Conflict, NotFound) as error:
            LOG.info("worker %s/%s: %s", namespace, pod, error)

    def release(self, obj: Object, finalizers: Sequence[str], *, alive: bool = False) -> bool:
        """Takes our finalizers from an object that is being deleted (`alive`: from any); whether it had any."""
        meta = obj["metadata"]
        has = meta.get("finalizers") or []
        kept = [f for f in has if f not in finalizers]
        if not (alive or meta.get("deletionTimestamp")) or kept == has:
            return False
        body = {"metadata": {"resourceVersion": meta["resourceVersion"], "uid": meta["uid"], "finalizers": kept}}
        try:
            self._client.merge(RESOURCES[obj["kind"]], key_of(obj), body)
            LOG.info("let go of %s %s", obj["kind"], key_of(obj))
        except NotFound:
            pass  # gone: that was the aim
        return True

    def get(self, ref: Ref) -> Object | None:
        """From the server, past the copies."""
        resource = RESOURCES[ref.kind]
        try:
            found: dict[str, Any] = self._client.get(resource, Key(ref.namespace, ref.name), dict[str, Any])
        except NotFound:
            return None
        return {"apiVersion": resource.api_version, "kind": ref.kind, **found}

    # --- what was applied in vain is not applied again to the same version ---

    def _is_settled(self, obj: Object, live: Object | None, sub: str, said: str) -> bool:
        with self._lock:
            known = self._settled.get((obj["kind"], key_of(obj), sub))
        return live is not None and known == (said, live["metadata"].get("resourceVersion"))

    def _remember(self, obj: Object, sub: str, said: str, version: str) -> None:
        at = (obj["kind"], key_of(obj), sub)
        with self._lock:
            self._settled[at] = (said, version)
            self._settled.move_to_end(at)
            if len(self._settled) > REMEMBERED:
                self._settled.popitem(last=False)


def meta_version(obj: Object) -> str:
    return str(obj["metadata"].get("resourceVersion", ""))


def key_of(obj: Object) -> Key:
    meta = obj["metadata"]
    return Key(meta.get("namespace", "") if RESOURCES[obj["kind"]].namespaced else "", meta["name"])
