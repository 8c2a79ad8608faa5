"""What the plugin looks after between calls, once a second: mounts that died, member lists, changed and deleted datasets.

Level-triggered: each pass compares records with what is there, so nothing is lost with an event, or when the plugin starts again.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable

from forebay.cache.log import log
from forebay.cache.members.roster import Listed, parse_members
from forebay.fuse import mounting
from forebay.fuse.csi import handover
from forebay.fuse.csi.protocol.refusal import Refusal
from forebay.fuse.csi.services.node import Node, show_over
from forebay.fuse.csi.volumes import inline
from forebay.fuse.csi.volumes import members as lists
from forebay.fuse.csi.volumes.agreement import Agreement
from forebay.fuse.csi.volumes.holder import Holder
from forebay.fuse.csi.volumes.inline import Inline
from forebay.fuse.csi.volumes.known import Known
from forebay.fuse.csi.volumes.mounts import Mounts
from forebay.fuse.csi.volumes.records import Kept, Published
from forebay.fuse.csi.volumes.site import Site, client_spec
from forebay.fuse.csi.volumes.source import Look, Seen, Source, revision_of, spec_of
from forebay.fuse.supervision import rundir

EVERY, OFTEN, NEW = 1.0, 0.1, 5.0
STALE = 60.0
"""Seconds without a whole pass after which the plugin calls itself unwell."""


class Tending:
    """One thread. `problem` says what keeps it from its work."""

    def __init__(self, node: Node, source: Source, *, known: Known, mounts: Mounts, volumes: Inline, holder: Holder) -> None:
        self._node = node
        self._source = source
        self._known = known
        self._mounts = mounts
        self._inline = volumes
        self._holder = holder
        self._configs: dict[tuple[str, str], Look[bytes]] = {}
        self._lists: dict[tuple[str, str], Look[list[Listed]]] = {}
        self._cordon: Look[bool] = source.follow_cordon(node.node)
        self._agreement = Agreement()
        self._said: dict[str, str] = {}
        self._passed: float | None = None
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="csi-tending", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._known.changed.set()
        self._thread.join(10.0)
        for stop in [x.stop for x in self._configs.values()] + [x.stop for x in self._lists.values()] + [self._cordon.stop]:
            stop()

    def problem(self) -> str:
        if self._passed is None:
            return "mounts were not looked after yet: their descriptors are still in the other pod alone"
        age = time.monotonic() - self._passed
        return f"mounts were last looked after {age:.0f} s ago" if age > STALE else ""

    def waiting(self) -> str:
        """Which mounts that pods use are not held here yet; "" `PATIENCE` s after the start, since one that cannot start must not
        keep an upgrade from the other nodes."""
        if time.monotonic() - self._began > handover.PATIENCE:
            return ""
        sites = [self._layout(kept) for kept in self._known.kept.all() if self._known.mounts(kept.key)]
        missing = [site.id for site in sites if not self._mounts.holds(site)]
        return f"{len(missing)} of {len(sites)} mounts are not held here yet, the first: {missing[0]}" if missing else ""

    def _run(self) -> None:
        self.look()  # at once: until then nobody holds what the other pod would lose
        soon = 0.0  # until when to look often: something is new, and what is followed for it has not been heard of
        while not self._stop.is_set():
            if self._known.changed.wait(OFTEN if time.monotonic() < soon and self._unheard() else EVERY):
                self._known.changed.clear()
                soon = time.monotonic() + NEW
            self.look()

    def _unheard(self) -> bool:
        return any(not look.look().known for look in self._lists.values())

    def look(self) -> None:
        """One pass. What fails for one dataset is said once, and keeps nobody else from being looked after."""
        self._attempt("holder", self._holder.tick)
        self._attempt("follow", self._follow)
        self._attempt("watches", self._complain)
        for kept in self._known.kept.all():
            self._attempt(kept.key, lambda kept=kept: self._dataset(kept))  # type: ignore[misc]
        for published in self._known.published.all():
            self._attempt(published.key, lambda p=published: self._volume(p))  # type: ignore[misc]
        self._passed = time.monotonic()

    def _attempt(self, what: str, do: Callable[[], None]) -> None:
        try:
            do()
            self._said.pop(what, None)
        except Exception as e:  # noqa: BLE001 - the others go on; said until it changes
            trouble = f"{type(e).__name__}: {e}"
            if self._said.get(what) != trouble:
                self._said[what] = trouble
                trace = "" if isinstance(e, Refusal) else traceback.format_exc()[-2000:]
                log("csi", "tending_failed", of=what, why=trouble, **({"trace": trace} if trace else {}))

    def _complain(self) -> None:
        """A watch that the API server refuses is said: without it deleted datasets stay here, and changes never arrive."""
        problems = {x.problem() for x in self._configs.values()} | {x.problem() for x in self._lists.values()}
        if said := sorted((problems | {self._cordon.problem()}) - {""}):
            raise Refusal("UNAVAILABLE", "; ".join(said))

    # --- what is followed

    def _follow(self) -> None:
        """Follow what records name, and nothing else."""
        kept, published = self._known.kept.all(), self._known.published.all()
        configs = {(k.namespace, k.config) for k in kept}
        services = {(k.namespace, k.service): self._layout(k).members for k in kept if k.service}
        services |= {(p.namespace, p.service): "" for p in published if p.service and (p.namespace, p.service) not in services}
        for key in set(self._configs) - configs:
            self._configs.pop(key).stop()
        for service in set(self._lists) - set(services):
            self._lists.pop(service).stop()
        for key in configs - set(self._configs):
            self._configs[key] = self._source.follow_config(*key)
        for service in set(services) - set(self._lists):
            targets = [p.key for p in published if (p.namespace, p.service) == service]
            self._lists[service] = self._source.follow_members(*service, _known(services[service], targets))

    def _layout(self, kept: Kept) -> Site:
        return self._node.layout.site(kept.namespace, kept.dataset)

    # --- datasets

    def _dataset(self, kept: Kept) -> None:
        site = self._layout(kept)
        followed = self._configs.get((kept.namespace, kept.config))
        workers = self._lists.get((kept.namespace, kept.service))
        if followed is None or (kept.service and workers is None):
            return  # it came after `_follow`: the next pass
        config: Seen[bytes] = followed.look()
        if workers is not None:
            listed = workers.look()
            if listed.known and os.path.isdir(site.folder):
                _write(site.members, lists.encode(listed.value or []))
        if config.known and config.value is None and not self._known.used(kept.key):
            self._forget(kept, site)
            return
        spec = None  # deleted under its readers, or nobody can be asked: the mount stays as it is, and is kept alive
        if config.value is not None and self._agreed(site, config.value, kept):
            spec = client_spec(spec_of(config.value), site, self._node.node, self._node.quota)
        with self._mounts.alone(site):
            if self._mounts.running(site) or (kept.service and self._known.mounts(kept.key)):
                self._mounts.repair(site, spec)

    def _agreed(self, site: Site, config: bytes, kept: Kept) -> bool:
        """Whether a configuration may be shown: at once where nothing is mounted, else when the workers serve it."""
        if not kept.service or not self._mounts.running(site):
            return True
        members = self._lists[(kept.namespace, kept.service)].look().value or []
        return self._agreement.reached(site, revision_of(config), members)

    def _forget(self, kept: Kept, site: Site) -> None:
        """The dataset was deleted and nobody has anything of it: mount, cache and directories go."""
        with self._mounts.alone(site):
            if self._known.used(kept.key):
                return
            if problems := self._mounts.stop(site):
                raise Refusal("INTERNAL", f"the mount of deleted dataset {kept.key} does not go: {'; '.join(problems)}")
            self._inline.forget(kept.directories)
            for folder in (site.folder, site.cache):
                if os.path.isdir(folder):
                    shutil.rmtree(folder)
                _tidy(folder)
            _tidy(site.mount)
            self._known.kept.drop(kept.key)
            self._agreement.forget(site)
        log("csi", "dataset_forgotten", dataset=kept.key, directories=list(kept.directories))

    # --- volumes

    def _volume(self, published: Published) -> None:
        if not os.path.isdir(os.path.dirname(published.key)):  # the pod and its folder are gone: nobody will unpublish
            self._known.published.drop(published.key)
            log("csi", "target_gone", path=published.key)
        elif published.part == "claim":
            self._show_again(published)
        elif published.part == "worker" and mounting.find(published.key) is not None:
            followed = self._lists.get((published.namespace, published.service))  # none for what came after `_follow`
            if followed is not None and (listed := followed.look()).known:
                inline.write_members(published.key, lists.encode(listed.value or []))
            cordoned = self._cordon.look()
            if cordoned.known:
                inline.say_leaving(published.key, bool(cordoned.value))

    def _show_again(self, published: Published) -> None:
        """A mount that was lost and made anew is another file system: targets still show the dead one."""
        site = self._node.layout.site(published.namespace, published.dataset)
        source, shown = mounting.find(site.mount), mounting.find(published.key)
        if source is None or not self._mounts.holds(site):
            return
        if shown is not None and shown.device == source.device:
            return
        with self._node.busy.hold(f"target {published.key}"):
            if self._known.published.get(published.key) == published:
                show_over(site.mount, published)
                log("csi", "shown_again", path=published.key, dataset=site.id)


def _known(file: str, targets: list[str]) -> list[str]:
    """Members as an earlier process of ours wrote them: who was ready once stays one."""
    written = [inline.known_members(target) for target in targets]
    if file:
        try:
            with open(file, "rb") as f:
                written.append(f.read())
        except FileNotFoundError:
            pass
    found: dict[str, None] = {}
    for raw in written:
        try:
            found |= {one.data: None for one in parse_members(raw)} if raw else {}
        except ValueError:
            continue  # an empty list
    return list(found)


def _write(path: str, raw: bytes) -> None:
    try:
        with open(path, "rb") as f:
            if f.read() == raw:
                return
    except FileNotFoundError:
        pass
    rundir.replace_file(path, raw)


def _tidy(path: str) -> None:
    """Remove a parent that is empty now."""
    try:
        os.rmdir(os.path.dirname(path))
    except OSError:
        return
