"""Node: what kubelet asks for on this node. The specification's tables are here; mounts, volumes and records do the work.

A second call for one target or one volume while the first is being carried out is ABORTED. Stage and publish of one dataset may
run at once: they meet at its mount, which is started once (`forebay.fuse.csi.volumes.mounts`).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping

import msgspec

from forebay.fuse import mounting
from forebay.fuse.csi.protocol import attributes, checks
from forebay.fuse.csi.protocol import messages as m
from forebay.fuse.csi.protocol.attributes import ClaimVolume, HostVolume, WorkerVolume
from forebay.fuse.csi.protocol.proto import Empty, Message
from forebay.fuse.csi.protocol.refusal import Refusal, malformed
from forebay.fuse.csi.protocol.rpc import Busy, Method
from forebay.fuse.csi.volumes import binds, child, inline
from forebay.fuse.csi.volumes import members as lists
from forebay.fuse.csi.volumes.inline import Inline
from forebay.fuse.csi.volumes.known import Known
from forebay.fuse.csi.volumes.mounts import Mounts
from forebay.fuse.csi.volumes.records import Published, Staged
from forebay.fuse.csi.volumes.site import Layout, Site, client_spec
from forebay.fuse.csi.volumes.source import Source, spec_of
from forebay.fuse.supervision import rundir

STAGE_WAIT, PUBLISH_WAIT = 15.0, 20.0
"""Seconds a call waits for a mount; then it is ABORTED, and kubelet's next call finds it further on."""
MEET, MEET_EVERY = 10.0, 0.5
"""Seconds a call waits for a first worker to be ready, and between looks."""
BIND = 20.0
STACKED = 20
"""Losses of one pod's mount that are shown one over the other; then it begins anew, and its containers see the old one."""
STATS = 5.0


class Node:
    """The Node service. `node` is this node's name, `quota` the bytes of a dataset's cache here where no worker runs."""

    def __init__(
        self,
        *,
        node: str,
        kubelet: str,
        layout: Layout,
        source: Source,
        mounts: Mounts,
        volumes: Inline,
        known: Known,
        quota: int,
    ) -> None:
        self.node = node
        self.kubelet = kubelet
        self.layout = layout
        self.quota = quota
        self._source = source
        self._mounts = mounts
        self._inline = volumes
        self._known = known
        self.busy = Busy()

    def methods(self) -> Mapping[str, Method]:
        return {
            f"{m.NODE}/NodeGetInfo": Method(Empty, self.info),
            f"{m.NODE}/NodeGetCapabilities": Method(Empty, self.capabilities),
            f"{m.NODE}/NodeStageVolume": Method(m.NodeStage, self.stage),
            f"{m.NODE}/NodeUnstageVolume": Method(m.NodeUnstage, self.unstage),
            f"{m.NODE}/NodePublishVolume": Method(m.NodePublish, self.publish),
            f"{m.NODE}/NodeUnpublishVolume": Method(m.NodeUnpublish, self.unpublish),
            f"{m.NODE}/NodeGetVolumeStats": Method(m.NodeStats, self.stats),
        }

    def info(self, _: Empty) -> m.NodeInfo:
        return m.NodeInfo(self.node)

    def capabilities(self, _: Empty) -> m.Capabilities:
        return m.Capabilities([m.Capability(m.Kind(rpc)) for rpc in m.NodeRpc])

    # --- stage

    def stage(self, r: m.NodeStage) -> Message:
        volume = checks.needed("volume_id", r.volume_id)
        path = checks.path("staging_target_path", r.staging_target_path, self.kubelet)
        mode = checks.capability(r.volume_capability)
        wanted = attributes.read(r.volume_context)
        if not isinstance(wanted, ClaimVolume):
            raise malformed("volume_context", "is of an inline volume, which is not staged")
        digest = attributes.digest(wanted, volume, mode)
        with self.busy.hold(f"volume {volume}"):
            before = self._known.staged.get(path)
            if before is not None and before.digest != digest:
                raise Refusal(
                    "ALREADY_EXISTS", f"{path} is staged for volume {before.volume} with other arguments: unstage it first"
                )
            self._mount(wanted, r.secrets.get(attributes.SECRET, ""), STAGE_WAIT)
            self._known.staged.put(
                Staged(path, volume, digest, wanted.namespace, wanted.dataset, wanted.config, wanted.service, wanted.clean_policy)
            )
        return Empty()

    def _mount(self, wanted: ClaimVolume, secret: str, seconds: float) -> None:
        """The dataset's mount on this node, answering."""
        site = self.layout.site(wanted.namespace, wanted.dataset)
        self._meet(wanted, site)
        with self._mounts.alone(site):
            known = self._mounts.holds(site) and not (secret and self._mounts.secret_changed(site, secret))
            if not known or self._mounts.state(site) is None:
                spec = spec_of(self._source.config(wanted.namespace, wanted.config))
                self._known.claim(wanted)
                self._mounts.start(site, client_spec(spec, site, self.node, self.quota), secret)
        self._mounts.wait(site, seconds)

    def _meet(self, wanted: ClaimVolume, site: Site) -> None:
        """Have a member list before the mount is there: without one its first reads would be errors.

        Pod and dataset are often applied together, and kubelet waits twice as long after each refusal, so it is waited for.
        """
        deadline = time.monotonic() + MEET
        while not os.path.exists(site.members):
            self._source.config(wanted.namespace, wanted.config)  # NOT_FOUND at once for a dataset that is not there
            if found := self._source.members(wanted.namespace, wanted.service):
                site.make()
                rundir.replace_file(site.members, lists.encode(found))
            elif time.monotonic() > deadline:
                raise Refusal("UNAVAILABLE", f"no worker of dataset {site.id} is ready: its Service {wanted.service} lists none")
            else:
                time.sleep(MEET_EVERY)

    def unstage(self, r: m.NodeUnstage) -> Message:
        volume = checks.needed("volume_id", r.volume_id)
        path = checks.path("staging_target_path", r.staging_target_path, self.kubelet)
        with self.busy.hold(f"volume {volume}"):
            before = self._known.staged.get(path)
            if before is None or before.volume != volume:
                return Empty()
            if used := [p.key for p in self._known.published.all() if p.volume == volume and p.part == "claim"]:
                raise Refusal("FAILED_PRECONDITION", f"volume {volume} is still published at {used[0]}: unpublish it first")
            self._known.staged.drop(path)
            if before.clean_policy == "OnDemand":
                site = self.layout.site(before.namespace, before.dataset)
                with self._mounts.alone(site):
                    if not self._known.mounts(before.id) and (problems := self._mounts.stop(site)):
                        self._known.staged.put(before)
                        raise Refusal("INTERNAL", f"the mount of {before.id} does not go: {'; '.join(problems)}")
        return Empty()

    # --- publish

    def publish(self, r: m.NodePublish) -> Message:
        volume = checks.needed("volume_id", r.volume_id)
        target = checks.path("target_path", r.target_path, self.kubelet)
        mode = checks.capability(r.volume_capability)
        wanted = attributes.read(r.volume_context)
        flags = tuple(sorted(r.volume_capability.mount.mount_flags)) if r.volume_capability and r.volume_capability.mount else ()
        record = Published(
            target, volume, attributes.digest(wanted, volume, mode, flags, r.readonly),
            "claim" if isinstance(wanted, ClaimVolume) else "worker" if isinstance(wanted, WorkerVolume) else "host",
            wanted.namespace, wanted.dataset, mode=int(mode), options=flags,
        )  # fmt: skip
        with self.busy.hold(f"target {target}"):
            before = self._known.published.get(target)
            if before is not None and before.digest != record.digest:
                raise Refusal("ALREADY_EXISTS", f"{target} shows volume {before.volume} with other arguments: unpublish it first")
            if isinstance(wanted, ClaimVolume):
                self._publish_claim(r, wanted, record)
            elif before is None or mounting.find(target) is None:
                self._publish_inline(wanted, record, read_only=r.readonly)
        return Empty()

    def _publish_inline(self, wanted: WorkerVolume | HostVolume, record: Published, *, read_only: bool) -> None:
        try:
            if isinstance(wanted, HostVolume):
                self._inline.make_host(wanted, record.key)
            elif read_only:
                raise malformed("readonly", "is true for a worker's volume, which a worker writes to: leave it out")
            else:
                self._known.worker(wanted, self._inline.directories(wanted))
                if not self._inline.is_whole(wanted, record.key):
                    self._inline.make_worker(wanted, record.key)
                record = msgspec.structs.replace(record, service=wanted.service)
        except OSError as e:
            code = "RESOURCE_EXHAUSTED" if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM) else "INTERNAL"
            raise Refusal(code, f"the volume cannot be made at {record.key}: {e.strerror or e}") from e  # type: ignore[arg-type]
        self._known.published.put(record)

    def _publish_claim(self, r: m.NodePublish, wanted: ClaimVolume, record: Published) -> None:
        if not r.staging_target_path:
            raise Refusal("FAILED_PRECONDITION", "staging_target_path is missing: this driver has STAGE_UNSTAGE_VOLUME")
        checks.path("staging_target_path", r.staging_target_path, self.kubelet)
        staged = self._known.staged.get(r.staging_target_path.rstrip("/"))
        if staged is None or staged.volume != record.volume:
            raise Refusal(
                "FAILED_PRECONDITION", f"volume {record.volume} is not staged at {r.staging_target_path}: stage it first"
            )
        if record.mode in m.ONE_TARGET:
            others = [p.key for p in self._known.published.all() if p.volume == record.volume and p.key != record.key]
            if others:
                raise Refusal(
                    "FAILED_PRECONDITION",
                    f"volume {record.volume} is published at {others[0]}, and its access mode allows one target",
                )
        self._mount(wanted, r.secrets.get(attributes.SECRET, ""), PUBLISH_WAIT)
        record = msgspec.structs.replace(record, sub_path=wanted.sub_path)
        site = self.layout.site(wanted.namespace, wanted.dataset)
        source, shown = mounting.find(site.mount), mounting.find(record.key)
        if source is None:
            raise Refusal("ABORTED", f"the mount of dataset {site.id} is being made anew: call again")
        if shown is None or shown.device != source.device:
            try:
                show(site.mount, record)
            except OSError as e:
                raise Refusal("INTERNAL", f"{record.key} cannot be made: {e.strerror or e}") from e
        self._known.published.put(record)

    def unpublish(self, r: m.NodeUnpublish) -> Message:
        volume = checks.needed("volume_id", r.volume_id)
        target = checks.path("target_path", r.target_path, self.kubelet)
        with self.busy.hold(f"target {target}"):
            before = self._known.published.get(target)
            if before is not None and before.volume != volume:
                return Empty()  # this volume is not published there, which is what was asked for
            try:
                inline.remove(target)
            except OSError as e:
                raise Refusal("INTERNAL", f"{target} cannot be taken away: {e.strerror or e}") from e
            self._known.published.drop(target)
        return Empty()

    # --- stats

    def stats(self, r: m.NodeStats) -> m.Stats:
        volume = checks.needed("volume_id", r.volume_id)
        if not r.volume_path:
            raise malformed("volume_path", "is missing")
        path = r.volume_path.rstrip("/")
        found = self._known.published.get(path)
        staged = self._known.staged.get(path)
        known = found or staged
        if known is None or known.volume != volume:
            raise Refusal("NOT_FOUND", f"volume {volume} is not at {path}")
        if found is not None and found.part != "claim":
            shown = path if found.part == "host" else f"{path}/{inline.TIERS}/0"
            return m.Stats(_usage(child.run("statvfs", shown, deadline=STATS)), m.VolumeCondition(False, "the volume is well"))
        site = self.layout.site(known.namespace, known.dataset)
        if mounting.find(site.mount) is None:
            return m.Stats(
                [], m.VolumeCondition(True, f"dataset {site.id} is not mounted on this node; it is being mounted anew")
            )
        try:
            usage = _usage(child.run("statvfs", site.mount, deadline=STATS))
        except Refusal as e:
            return m.Stats([], m.VolumeCondition(True, str(e)))
        return m.Stats(usage, m.VolumeCondition(False, "the mount answers"))


def show(mount: str, record: Published) -> None:
    """Bind a mount, or what lies below a sub path of it, at a target, in place of what is there. Raises `Refusal`."""
    binds.unmount_all(record.key)  # first: nothing may look at a dead mount
    os.makedirs(record.key, mode=0o750, exist_ok=True)
    _bind(mount, record)


def show_over(mount: str, record: Published) -> None:
    """The same on top of a dead mount that containers were shown: into those that see their host's mounts it spreads from there,
    and from nowhere else. The kernel takes the path to a dead root without asking its daemon. Raises `Refusal`."""
    if not 0 < binds.stacked(record.key) < STACKED:
        show(mount, record)
    else:
        _bind(mount, record)


def _bind(mount: str, record: Published) -> None:
    try:
        if record.sub_path:
            child.run("bind", mount, record.sub_path, record.key, ",".join(record.options), deadline=BIND)
        else:  # the root itself is the kernel's to know: no daemon is asked, so this cannot hang
            binds.bind(mount, record.key, read_only=True, options=record.options)
    except (Refusal, OSError):
        inline.remove(record.key)
        raise


def _usage(words: str) -> list[m.Usage]:
    """Bytes and inodes of what `child statvfs` printed."""
    size, blocks, free, files, free_files = (int(w) for w in words.split())
    return [
        m.Usage(free * size, blocks * size, (blocks - free) * size, m.Unit.BYTES),
        m.Usage(free_files, files, files - free_files, m.Unit.INODES),
    ]
