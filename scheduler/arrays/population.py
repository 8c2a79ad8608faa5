"""Which pods run where, as (anti-)affinity and spread ask: by what a selector means, and by which terms pods have.

Pods of one namespace with equal labels are one group. A kind (`tallies.Kind`) counts the pods of all groups that it means. Kinds
come when somebody first asks for them and count what is there already; from then on each placement is added to the kinds of its
group.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from forebay.scheduler.arrays.tallies import Kind
from forebay.scheduler.pods.classes import PodTerm
from forebay.scheduler.pods.selectors import Selector, selects


class Meaning(NamedTuple):
    """Pods that all of `terms` mean, their topology left out. `staying`: without those that are being deleted."""

    terms: tuple[PodTerm, ...]
    staying: bool = False


class Group:
    """Pods with equal namespace, labels and fate. `rows` counts them; `kinds` are those they belong to, of the first `known`."""

    def __init__(self, namespace: str, labels: Mapping[str, str], leaving: bool) -> None:
        self.namespace, self.labels, self.leaving = namespace, labels, leaving
        self.rows: Counter[int] = Counter()
        self.kinds: list[Kind] = []
        self.known = [0, 0]  # of the kinds of its namespace, and of those of several


class Population:
    """See the module. `epoch` grows when who is meant by what has to be asked anew; `terms` counts anti-affinity terms."""

    def __init__(self) -> None:
        self._spaces: dict[str, Mapping[str, str]] = {}
        self._groups: dict[tuple[str, tuple[tuple[str, str], ...], bool], Group] = {}
        self._groups_in: dict[str, list[Group]] = {}
        self._kinds: dict[Meaning, Kind] = {}
        self._kinds_in: dict[str, list[tuple[Meaning, Kind]]] = {}
        self._kinds_wide: list[tuple[Meaning, Kind]] = []
        self._holders: dict[PodTerm, Kind] = {}
        self._wishers: dict[tuple[int, PodTerm], Kind] = {}
        self.epoch = 0

    # --- who is who ---

    def group(self, namespace: str, labels: tuple[tuple[str, str], ...], leaving: bool) -> Group:
        key = namespace, labels, leaving
        kept = self._groups.get(key)
        if kept is None:
            kept = self._groups[key] = Group(namespace, dict(labels), leaving)
            self._groups_in.setdefault(namespace, []).append(kept)
        return kept

    def meant(self, terms: tuple[PodTerm, ...]) -> Kind:
        """Pods that all terms mean."""
        return self._kind(Meaning(tuple(sorted({term._replace(key="") for term in terms}, key=repr))))

    def staying(self, namespace: str, selector: Selector | None) -> Kind:
        """Pods of the namespace that the selector means and that are not being deleted."""
        return self._kind(Meaning((PodTerm("", selector, (namespace,), None),), True))

    def holders(self, term: PodTerm) -> Kind:
        """Pods that have the anti-affinity term."""
        kept = self._holders.get(term)
        if kept is None:
            kept = self._holders[term] = Kind()
        return kept

    def wishers(self, weight: int, term: PodTerm) -> Kind:
        """Pods that want to be near those that the term means, with that weight; away from them where it is below 0."""
        kept = self._wishers.get((weight, term))
        if kept is None:
            kept = self._wishers[weight, term] = Kind()
        return kept

    @property
    def terms(self) -> int:
        return len(self._holders)

    @property
    def wishes(self) -> int:
        """How many such terms there are, with their weights."""
        return len(self._wishers)

    def wishing(self, group: Group, known: int = 0) -> list[tuple[int, PodTerm, Kind]]:
        """Those that mean pods of the group, without the first `known` of all."""
        fresh = itertools.islice(self._wishers.items(), known, None)
        return [(weight, term, kind) for (weight, term), kind in fresh if self._means(term, group)]

    def against(self, group: Group, known: int = 0) -> list[tuple[PodTerm, Kind]]:
        """Anti-affinity terms of any pod that mean pods of the group, without the first `known` of all terms."""
        fresh = itertools.islice(self._holders.items(), known, None)
        return [(term, kind) for term, kind in fresh if self._means(term, group)]

    def means(self, terms: Iterable[PodTerm], group: Group) -> bool:
        """Whether all terms mean pods of the group."""
        return all(self._means(term, group) for term in terms)

    def _means(self, term: PodTerm, group: Group) -> bool:
        there = group.namespace in term.namespaces or selects(term.namespace_selector, self._spaces.get(group.namespace, {}))
        return there and selects(term.selector, group.labels)

    def _meant(self, meaning: Meaning, group: Group) -> bool:
        return not (meaning.staying and group.leaving) and self.means(meaning.terms, group)

    # --- counting ---

    def move(self, row: int, group: Group, held: Iterable[Kind], change: int) -> None:
        """`change` more pods of the group on the row, which have the terms whose holders are `held`."""
        group.rows[row] += change
        if not group.rows[row]:
            del group.rows[row]
        for kind in self._kinds_of(group):
            kind.add(row, change)
        for kind in held:
            kind.add(row, change)

    def _kind(self, meaning: Meaning) -> Kind:
        kept = self._kinds.get(meaning)
        if kept is not None:
            return kept
        spaces = self._one_space(meaning)
        groups = self._groups.values() if spaces is None else [g for space in spaces for g in self._groups_in.get(space, ())]
        for group in groups:
            self._kinds_of(group)  # those that came before, so that each is met in its turn
        kept = self._kinds[meaning] = Kind()
        if spaces is not None and len(spaces) == 1:
            self._kinds_in.setdefault(spaces[0], []).append((meaning, kept))
        else:
            self._kinds_wide.append((meaning, kept))
        for group in groups:
            kinds = len(group.kinds)
            if len(self._kinds_of(group)) > kinds:
                for row, count in group.rows.items():
                    kept.add(row, count)
        return kept

    @staticmethod
    def _one_space(meaning: Meaning) -> tuple[str, ...] | None:
        """Namespaces outside of which the meaning means nobody; None where that depends on their labels."""
        for term in meaning.terms:
            if term.namespace_selector is None:
                return term.namespaces
        return None

    def _kinds_of(self, group: Group) -> list[Kind]:
        near, wide = self._kinds_in.get(group.namespace, []), self._kinds_wide
        if group.known != [len(near), len(wide)]:
            group.kinds += [kind for meaning, kind in near[group.known[0] :] if self._meant(meaning, group)]
            group.kinds += [kind for meaning, kind in wide[group.known[1] :] if self._meant(meaning, group)]
            group.known = [len(near), len(wide)]
        return group.kinds

    # --- changes that concern everybody ---

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> bool:
        """The labels of a namespace, None if it is gone. True if pods that run may be meant by others now: `reset` is due."""
        if self._spaces.get(name) == labels:
            return False
        if labels is None:
            self._spaces.pop(name, None)
        else:
            self._spaces[name] = labels
        self.epoch += 1
        return name in self._groups_in

    def reset(self, kinds: bool = False) -> None:
        """Nobody runs anywhere; with `kinds` no group and no kind is known any more. Whoever calls it places everybody again."""
        self.epoch += 1
        if kinds:
            self._groups.clear()
            self._groups_in.clear()
            self._kinds.clear()
            self._kinds_in.clear()
            self._kinds_wide.clear()
            self._holders.clear()
            self._wishers.clear()
        for group in self._groups.values():
            group.rows.clear()
            group.kinds, group.known = [], [0, 0]
        for kind in (*self._kinds.values(), *self._holders.values(), *self._wishers.values()):
            kind.forget()
