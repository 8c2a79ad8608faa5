"""The one mount of each dataset on this node: started when first needed, kept alive, taken away.

Invariant: while a dataset's mount answers, its device and record are open here too, so that it outlives the death of everybody
who serves it. Closing them here never ends a mount that a supervisor holds.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from forebay.api import places
from forebay.api.spec import DatasetSpec, decode_spec, encode_spec
from forebay.cache.log import log
from forebay.fuse import mounting
from forebay.fuse.csi.protocol.refusal import Refusal
from forebay.fuse.csi.volumes.holder import Holder
from forebay.fuse.csi.volumes.site import Site
from forebay.fuse.supervision import control, rundir

STOP = 60.0
"""Seconds for a clean end: 3 for a busy mount, 5 for the daemon, 30 for the client tier, and room."""
ASK, GONE = 3.0, 10.0


class _Held:
    """What this process holds of one mount."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # starting, stopping, taking descriptors
        self.fds: tuple[int, int] | None = None
        self.spec = b""  # as the running client tier has it

    def let_go(self) -> None:
        for fd in self.fds or ():
            os.close(fd)
        self.fds = None

    def plugged(self) -> bool:
        """Whether the held device still belongs to a mount."""
        if self.fds is None:
            return False
        poll = select.poll()
        poll.register(self.fds[0], 0)
        return not any(flags & (select.POLLERR | select.POLLNVAL) for _, flags in poll.poll(0))


class Mounts:
    """All mounts of this node, from any thread."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}

    def _of(self, site: Site) -> _Held:
        with self._lock:
            return self._held.setdefault(site.id, _Held())

    @contextlib.contextmanager
    def alone(self, site: Site) -> Iterator[None]:
        """Hold a dataset against starting and stopping by others."""
        with self._of(site).lock:
            yield

    def start(self, site: Site, spec: DatasetSpec, secret: str) -> None:
        """Start the mount if it does not run. `secret` "" leaves the one that is known. Returns before it answers."""
        held = self._of(site)
        with held.lock:
            site.make()
            fresh = bool(secret) and self.secret_changed(site, secret)
            if fresh:
                rundir.replace_file(site.secret, secret.encode())
            elif not os.path.exists(site.secret):
                raise Refusal(
                    "INVALID_ARGUMENT",
                    "secrets: key 'secret' is missing: the volume's nodeStageSecretRef names the dataset's own Secret",
                )
            raw = encode_spec(spec)
            if self.state(site) is not None:
                self._respec(site, held, raw, anyway=fresh)
                return
            if self._holder.alive(site.run):
                return  # a daemon looks for a new supervisor, or one has not opened its socket yet
            self._launch(site, held, raw)

    def secret_changed(self, site: Site, secret: str) -> bool:
        """Whether another secret than the known one comes: the dataset was deleted and made anew under its name."""
        try:
            with open(site.secret, "rb") as f:
                return f.read() != secret.encode()
        except FileNotFoundError:
            return True

    def _respec(self, site: Site, held: _Held, raw: bytes, *, anyway: bool) -> None:
        """Give a running mount a changed spec, or have it read what it was started with again."""
        path = f"{site.run}/{places.SPEC}"
        if not held.spec:
            with contextlib.suppress(OSError), open(path, "rb") as f:
                held.spec = f.read()
        if held.spec == raw and not anyway:
            return
        mounts_only = not anyway and _besides_mounts(held.spec) == _besides_mounts(raw)
        rundir.replace_file(path, raw)
        held.spec = raw
        log("csi", "spec_changed", dataset=site.id, reload=not mounts_only)
        if mounts_only:
            return  # a client tier looks at its spec each second and takes changed mounts over while it serves
        with contextlib.suppress(control.Silence):  # then the next supervisor's first worker reads it
            control.ask(f"{site.run}/{places.SUPERVISOR_SOCK}", {"op": "reload"}, ASK)

    def _launch(self, site: Site, held: _Held, raw: bytes) -> None:
        fds = held.fds if held.plugged() and mounting.find(site.mount) is not None else None
        if fds is None:
            held.let_go()
            self._detach(site)
        places.make_private(Path(site.run))
        rundir.replace_file(f"{site.run}/{places.SPEC}", raw)
        held.spec = raw
        self._holder.start(site.run, site.mount, fds or ())
        log("csi", "mount_started", dataset=site.id, mount=site.mount, adopted=fds is not None)

    def _detach(self, site: Site) -> None:
        """What an earlier boot or a killed crowd left at the mount point."""
        for _ in range(8):
            if mounting.find(site.mount) is None:
                return
            log("csi", "dead_mount_detached", dataset=site.id, mount=site.mount)
            mounting.umount(site.mount, lazy=True)

    def state(self, site: Site) -> dict[str, Any] | None:
        """The supervisor's own word, None when none answers."""
        try:
            found = control.ask(f"{site.run}/{places.SUPERVISOR_SOCK}", {"op": "status"}, ASK)
        except control.Silence:
            return None
        return found

    def wait(self, site: Site, seconds: float) -> None:
        """Until the mount answers. Raises `Refusal`: ABORTED while it starts, UNAVAILABLE where it failed, and why."""
        deadline = time.monotonic() + seconds
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                said = control.ask(f"{site.run}/{places.SUPERVISOR_SOCK}", {"op": "wait"}, left)
            except control.Silence:
                said = {}
            if said.get("phase") == "up":
                self.hold(site)
                return
            if said.get("done"):
                raise Refusal(
                    "UNAVAILABLE", f"the mount of dataset {site.id} does not start: {said.get('error') or 'it was stopped'}"
                )
            if time.monotonic() >= deadline:
                raise Refusal("ABORTED", f"the mount of dataset {site.id} is still starting: call again")
            time.sleep(0.05)

    def hold(self, site: Site) -> None:
        """Have the descriptors of a running mount."""
        held = self._of(site)
        with held.lock:
            if held.plugged():
                return
            held.let_go()
            try:
                said, fds = control.borrow(f"{site.run}/{places.SUPERVISOR_SOCK}", {"op": "lend"}, ASK)
            except control.Silence:
                return  # looked at again with the next tick
            if said.get("lent") and len(fds) == 2:
                held.fds = (fds[0], fds[1])

    def repair(self, site: Site, spec: DatasetSpec | None) -> None:
        """Called again and again for a mount that shall be there: holds its descriptors, starts what died, follows its spec.

        `spec` None: as it was started last.
        """
        if spec is None:
            try:
                with open(f"{site.run}/{places.SPEC}", "rb") as f:
                    spec = decode_spec(f.read())
            except FileNotFoundError:
                return  # nothing to start it by
        self.start(site, spec, "")
        self.hold(site)

    def running(self, site: Site) -> bool:
        return os.path.exists(f"{site.run}/{places.SPEC}")

    def stop(self, site: Site) -> list[str]:
        """Take the mount away; sentences about what could not be. Nothing when there is none."""
        held = self._of(site)
        with held.lock:
            problems: list[str] = []
            if self.running(site):
                try:
                    control.ask(f"{site.run}/{places.SUPERVISOR_SOCK}", {"op": "stop"}, STOP)
                    self._gone(site)
                except control.Silence:
                    problems = self._holder.clear(site.run, site.id)
            held.let_go()
            held.spec = b""
            self._detach(site)
            log("csi", "mount_stopped", dataset=site.id, problems=problems)
            return problems

    def _gone(self, site: Site) -> None:
        """Wait until the supervisor, which answered as its last act, is no process any more: it has the lock."""
        deadline = time.monotonic() + GONE
        while self._holder.alive(site.run) and time.monotonic() < deadline:
            time.sleep(0.02)

    def holds(self, site: Site) -> bool:
        return self._of(site).plugged()

    def close(self) -> None:
        """Let go of every descriptor; the mounts live on with their supervisors."""
        for held in self._held.values():
            held.let_go()


def _besides_mounts(raw: bytes) -> DatasetSpec:
    return msgspec.structs.replace(decode_spec(raw), mounts=[])
