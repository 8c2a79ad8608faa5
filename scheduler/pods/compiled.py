"""A class of pods with its checks: those by row, those that depend on other rows, and what a placement of it changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forebay.api.kubernetes.core import NodeSelector
from forebay.scheduler.arrays.node_rows import NodeRows
from forebay.scheduler.arrays.population import Population
from forebay.scheduler.arrays.storage import ClaimKey, Storage
from forebay.scheduler.arrays.tallies import Counted, Tally
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.claims.asks import Wanted
from forebay.scheduler.claims.book import ClaimBook
from forebay.scheduler.filters.base import Check, NodeMask
from forebay.scheduler.filters.device_fits import DeviceFits
from forebay.scheduler.filters.node_affinity import NodeAffinityCheck
from forebay.scheduler.filters.pod_affinity import AffinityCheck, AntiAffinityCheck, KeptOffCheck
from forebay.scheduler.filters.ports import PortCheck, UsedPorts
from forebay.scheduler.filters.resource_claims import ResourceClaimCheck
from forebay.scheduler.filters.spread import Constraint, SpreadCheck
from forebay.scheduler.filters.taints import TaintCheck
from forebay.scheduler.filters.volumes import AttachCheck, OncePodCheck, VolumeCheck
from forebay.scheduler.lack import Lack
from forebay.scheduler.pods.classes import ANYWHERE, NodeRule, PodClass, PodTerm, Spread, Tolerated, node_terms
from forebay.scheduler.pods.selectors import Requirement, selects
from forebay.scheduler.preferences.preferences import Preferences, wishes_of


class UnknownResources(Check):
    """Resources that no node has ever offered."""

    def __init__(self, unknown: tuple[tuple[str, int], ...]) -> None:
        self._unknown = unknown

    def passes(self, rows: Ints) -> Bools:
        return np.zeros(len(rows), np.bool_)

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        everywhere = np.ones(len(rows), np.bool_)
        remedy = "install what offers it (a device plugin) or correct the name"
        return [(Lack(f"no {name}", remedy, name), everywhere) for name, _ in self._unknown]

    def lack(self) -> Lack:
        return Lack("unknown resource")


class World:
    """What checks read, and the masks that classes share."""

    def __init__(self) -> None:
        self.nodes = NodeRows()
        self.storage = Storage()
        self.claims = ClaimBook()
        self.ports = UsedPorts()
        self.people = Population()
        self._affinities: dict[tuple[NodeRule, str], NodeAffinityCheck] = {}
        self._taints: dict[tuple[tuple[Tolerated, ...], bool], TaintCheck] = {}
        self._fits: dict[tuple[Wanted, ...], DeviceFits] = {}

    def affinity(self, rule: NodeRule, subject: str = "node affinity") -> NodeMask:
        kept = self._affinities.get((rule, subject))
        if kept is None:
            kept = self._affinities[rule, subject] = NodeAffinityCheck(self.nodes, rule, subject)
        return kept

    def taints(self, tolerations: tuple[Tolerated, ...], cordon: bool = True) -> TaintCheck:
        """With `cordon` False only the taints themselves: spread constraints do not read `spec.unschedulable`."""
        kept = self._taints.get((tolerations, cordon))
        if kept is None:
            kept = self._taints[tolerations, cordon] = TaintCheck(self.nodes, tolerations, cordon)
        return kept

    def fits(self, wanted: tuple[Wanted, ...]) -> DeviceFits:
        """Where devices for all of these are free."""
        kept = self._fits.get(wanted)
        if kept is None:
            kept = self._fits[wanted] = DeviceFits(self.nodes, self.claims, self._reached, wanted)
        return kept

    def _reached(self, selector: NodeSelector) -> NodeMask:
        return self.affinity(node_terms(selector), "reach of devices")

    def forget(self) -> None:
        """Drops all masks; who still needs one makes it anew."""
        self._fits.clear()
        self._affinities.clear()
        self._taints.clear()


class Compiled:
    """See the module. `rows` are checks by row; `wide` those that look at other rows."""

    def __init__(self, key: PodClass, world: World) -> None:
        self.key = key
        self._world = world
        self._group = world.people.group(key.namespace, key.labels, key.leaving)
        self._held = (*(world.people.holders(term) for term in key.anti_affinity), *wishes_of(key, world.people))
        self.preferences = Preferences(key, world.nodes, world.people, self._group, self._leaning_on)
        self.claims = tuple(ClaimKey(key.namespace, name) for name in key.claims)
        self.volumes = VolumeCheck(world.nodes, world.storage, world.affinity, self.claims) if key.claims else None
        self.device_claims = tuple(ClaimKey(key.namespace, name) for name in key.devices if name)
        self.allocated = self._claim_check() if key.devices else None
        self.rows = self._row_checks()
        self._moving = bool(key.claims or key.ports)  # whether pods that come and go change a row's answer
        self._basis: tuple[int, int, int] | None = None
        self._mask: Bools = np.zeros(0, np.bool_)
        self._seen = 0
        self._own = self._wide_checks()
        self._against: list[tuple[PodTerm, Tally]] = []  # of the first `_known` terms of all pods
        self._known, self._epoch = 0, world.people.epoch
        self._all = self._own

    def _row_checks(self) -> tuple[Check, ...]:
        key, world = self.key, self._world
        checks: list[Check] = [world.taints(key.tolerations)]
        if key.nodes != ANYWHERE:
            checks.append(world.affinity(key.nodes))
        if key.unknown:
            checks.append(UnknownResources(key.unknown))
        if key.ports:
            checks.append(PortCheck(world.ports, key.ports))
        if self.volumes is not None:
            checks += [self.volumes, AttachCheck(world.storage, self.claims)]
        if self.allocated is not None:
            checks.append(self.allocated)
        return tuple(checks)

    def _claim_check(self) -> ResourceClaimCheck:
        world, claims = self._world, tuple(ClaimKey(self.key.namespace, name) for name in self.key.devices)

        def mask_of(rule: NodeRule, subject: str) -> NodeMask:  # of one claim: nobody else asks for it
            return NodeAffinityCheck(world.nodes, rule, subject)

        return ResourceClaimCheck(world.nodes, world.claims, mask_of, world.fits, claims)

    def _wide_checks(self) -> tuple[Check, ...]:
        key, world, people = self.key, self._world, self._world.people
        checks: list[Check] = []
        if key.claims:
            checks.append(OncePodCheck(world.storage, self.claims))
        if key.affinity:
            kind = people.meant(key.affinity)
            tallies = tuple(Tally(kind, term.key, world.nodes.labels) for term in key.affinity)
            checks.append(AffinityCheck(key.affinity, tallies, people.means(key.affinity, self._group)))
        if key.anti_affinity:
            terms = tuple((term, Tally(people.meant((term,)), term.key, world.nodes.labels)) for term in key.anti_affinity)
            checks.append(AntiAffinityCheck(terms))
        if key.spread:
            checks.append(SpreadCheck(tuple(self._constraint(spread) for spread in key.spread)))
        return tuple(checks)

    def _constraint(self, spread: Spread) -> Constraint:
        people, key = self._world.people, self.key
        own = selects(spread.selector, dict(key.labels))
        kind = people.staying(key.namespace, spread.selector) if spread.selector else None
        counted = self._counted(spread, self.key.spread)
        return Constraint(spread, Tally(kind, spread.key, self._world.nodes.labels, counted), int(own))

    def _leaning_on(self, spread: Spread) -> Counted:
        return self._counted(spread, self.key.preferred.spread)

    def _counted(self, spread: Spread, beside: tuple[Spread, ...]) -> Counted:
        """Rows whose pods a spread constraint counts, one of those `beside` it."""
        nodes = self._world.nodes
        masks: list[NodeMask] = [self._world.affinity(self.key.nodes)] if spread.honor_affinity else []
        if spread.honor_taints:
            masks.append(self._world.taints(self.key.tolerations, cordon=False))
        keys = tuple(Requirement(one.key, "Exists") for one in beside)

        def rows() -> Bools:
            every = np.arange(len(nodes))
            counted = np.ones(len(nodes), np.bool_)
            for requirement in keys:
                counted &= nodes.labels.satisfy(requirement, every)
            for mask in masks:
                counted &= mask.mask
            return counted

        return Counted(lambda: nodes.tick, rows)

    # --- answers ---

    def mask(self, tick: int, changed_since: Callable[[int], Ints]) -> Bools:
        """bool[N]: rows that meet all checks by row. Kept, and brought up to date for nodes, pods or storage that changed.

        `tick` is the state's, `changed_since` gives its rows that changed after an earlier one.
        """
        world, key = self._world, self.key
        basis = world.nodes.tick, world.storage.version if key.claims else 0, world.claims.version if key.devices else 0
        if self._basis != basis:
            self._basis, self._mask = basis, self._passes(np.arange(len(world.nodes)))
        elif self._moving and self._seen != tick:
            rows = changed_since(self._seen)
            self._mask[rows] = self._passes(rows)
        self._seen = tick
        return self._mask

    def _passes(self, rows: Ints) -> Bools:
        passed = self.rows[0].passes(rows)
        for check in self.rows[1:]:
            passed = passed & check.passes(rows)
        return passed

    @property
    def wide(self) -> tuple[Check, ...]:
        """Checks that look at other rows, those of others' anti-affinity included."""
        people, labels = self._world.people, self._world.nodes.labels
        if self._epoch != people.epoch:  # also whether the pod's own terms mean itself may have changed
            self._epoch, self._known, self._against = people.epoch, 0, []
            self._own = self._all = self._wide_checks()
        if self._known < people.terms:
            fresh = people.against(self._group, self._known)
            self._known = people.terms
            self._against += [(term, Tally(kind, term.key, labels)) for term, kind in fresh]
            self._all = (*self._own, KeptOffCheck(tuple(self._against))) if self._against else self._own
        return self._all

    # --- changes ---

    def enter(self, row: int) -> None:
        """A pod that is counted otherwise already counts among the kinds again."""
        self._world.people.move(row, self._group, self._held, 1)

    def move(self, row: int, change: int) -> None:
        """A pod of the class came to the row (1) or left it (-1)."""
        self._world.people.move(row, self._group, self._held, change)
        if self.key.ports:
            self._world.ports.change(row, self.key.ports, change)
        if self.claims:
            if change > 0:
                self._world.storage.use(row, self.claims)
            else:
                self._world.storage.leave(row, self.claims)
        if self.device_claims:
            self.use(change)

    def use(self, change: int) -> None:
        """A pod of the class uses its claims on devices from now on (1), or no more (-1)."""
        if change > 0:
            self._world.claims.use(self.device_claims)
        else:
            self._world.claims.leave(self.device_claims)
