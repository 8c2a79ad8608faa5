"""The cards of all nodes as arrays: which nodes could take a pod, at once, and exact books of what is taken.

Arrays over N rows and C places; a place without a card has kind -1. Invariants:
- `used[row]` holds, by card id, the sum of what was taken; every array is a function of it and of `devices[row]`;
- for a pod whose cards are asked alike (`PodAsk.single`) `usable` and `feasible` are exact; for others `usable` errs on the
  side of yes, and `feasible` looks at each row that is left;
- what is on a card that is gone stays counted, and the card takes nothing new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from forebay.scheduler.arrays.types import Bools, Ints, Shorts
from forebay.scheduler.devices.ask import Ask, PodAsk
from forebay.scheduler.devices.card import ANY, NOTHING, Device, Part, Rules, Use, collapse, free_milli, lack, mask, use_of
from forebay.scheduler.devices.fit import Refusal, fit, forbidden
from forebay.scheduler.devices.vendors.table import KINDS

AnyArray = TypeVar("AnyArray", bound=np.generic)

NO_KIND = -1
LIMIT = np.iinfo(np.int64).max // 4
"""Stands for no bound."""
ORDERS = {"": 0, "binpack": 1, "spread": -1}

CORES = {"may": 0, "must": 1, "never": -1}

EMPTY_ROW = {
    **{"present": False, "whole": True, "shares": True, "apart": False, "shared": False},
    **{"bounded": 0, "most_pods": LIMIT, "order": 0},
}
EMPTY_PLACE = {
    **dict.fromkeys(("look", "memory", "memory_free", "cores_free", "cpus_free", "tenants_free", "pods", "slices"), 0),
    **dict.fromkeys(("open", "healthy", "taken"), False),
    "kind": NO_KIND,
}
"""What the arrays hold for rows and places without a card."""


class _Needs(NamedTuple):
    """What some containers that share a card need of each type of card [T]; None for what they need of none.

    `right`: whether such a card could ever carry them; `cut`: types that are cut; `size`: memory and cores of the types [T, 2].
    """

    memory: Ints | None
    cores: Ints | None
    cpus: Ints | None
    tenants: Ints | None
    whole: Ints | None
    open: Ints | None
    right: Bools
    cut: tuple[int, ...]
    size: Ints


def _on(needed: Ints | None, looks: Ints) -> Ints | int:
    """What is needed of cards of these types."""
    return 0 if needed is None else needed.take(looks)


class Cards:
    """Cards of N nodes with at most C places each."""

    def __init__(self, devices: Sequence[Sequence[Device]], rules: Sequence[Rules], places: int) -> None:
        count = len(devices)
        self.devices: list[tuple[Device, ...]] = [()] * count
        self.rules = list(rules)
        self.used: list[dict[str, Use]] = [{} for _ in range(count)]
        self.present = np.zeros(count, np.bool_)
        self.whole = np.ones(count, np.bool_)  # what the node's policy gives out
        self.shares = np.ones(count, np.bool_)
        self.apart = np.zeros(count, np.bool_)  # never both at a time
        self.shared = np.zeros(count, np.bool_)  # some pod holds a share; one of a card that is gone counts
        self.bounded: Shorts = np.zeros(count, np.int16)  # 1 shares must bound their cores, -1 they must not
        self.most_pods: Ints = np.full(count, LIMIT, np.int64)
        self.order: Shorts = np.zeros(count, np.int16)  # 1 fill cards up, -1 spread, 0 the policy decides
        self.kind: Shorts = np.full((count, places), NO_KIND, np.int16)
        self.look: Ints = np.zeros((count, places), np.int64)
        self.memory: Ints = np.zeros((count, places), np.int64)
        self.memory_free: Ints = np.zeros((count, places), np.int64)
        self.cores_free: Ints = np.zeros((count, places), np.int64)
        self.cpus_free: Ints = np.zeros((count, places), np.int64)
        self.tenants_free: Ints = np.zeros((count, places), np.int64)
        self.pods: Ints = np.zeros((count, places), np.int64)
        self.open: Bools = np.zeros((count, places), np.bool_)
        self.healthy: Bools = np.zeros((count, places), np.bool_)
        self.taken: Bools = np.zeros((count, places), np.bool_)  # as a whole
        self.slices: Ints = np.zeros((count, places), np.int64)
        self._kinds = {name: number for number, name in enumerate(KINDS)}
        self._looks: dict[Device, int] = {}
        self._samples: list[Device] = []
        self._common: list[int] | None = None  # numbers of types, the commonest first; None when cards came or went
        self._typical: dict[PodAsk, int] = {}
        self._asked: dict[tuple[PodAsk, Ask], _Needs] = {}
        self._answers: dict[tuple[int, str], Bools] = {}
        self._bits: Ints = np.array([number.bit_count() for number in range(1 << 12)], np.int64)  # a card has at most 12 slices
        for row in range(count):
            self.load(row, devices[row], rules[row], {})

    def grow(self, count: int, places: int) -> None:
        """Room for that many rows and places; new ones are empty."""
        more, wider = count - len(self.devices), places - self.kind.shape[1]
        self.devices += [()] * more
        self.rules += [ANY] * more
        self.used += [{} for _ in range(more)]
        for name, empty in EMPTY_ROW.items():
            setattr(self, name, np.pad(getattr(self, name), (0, more), constant_values=empty))
        for name, empty in EMPTY_PLACE.items():
            setattr(self, name, np.pad(getattr(self, name), ((0, more), (0, wider)), constant_values=empty))

    def load(self, row: int, devices: Sequence[Device], rules: Rules, used: Mapping[str, Use]) -> None:
        """Sets a row anew: its cards, its policy, what is taken. Raises ValueError for more cards than the arrays have places."""
        places = self.kind.shape[1]
        if len(devices) > places:
            raise ValueError(f"a node has {len(devices)} cards now, the snapshot has room for {places}: build it anew")
        if len({device.id for device in devices}) < len(devices):
            raise ValueError("two cards of a node have the same id: cards are found by id")
        self.devices[row], self.rules[row] = tuple(devices), rules
        self.used[row] = {name: use for name, use in used.items() if use != NOTHING}
        self.shared[row] = any(use.pods > use.whole for use in self.used[row].values())
        self.present[row] = bool(devices)
        self.whole[row], self.shares[row], self.apart[row] = rules.whole, rules.shares, not rules.mixed
        self.bounded[row] = CORES[rules.cores]
        self.most_pods[row] = rules.max_pods or LIMIT
        self.order[row] = ORDERS[rules.cards_by]
        before = self.look[row][self.kind[row] != NO_KIND].tolist()
        self.kind[row] = NO_KIND
        self.healthy[row] = False
        for place, device in enumerate(devices):
            self.kind[row, place] = self._kinds[device.kind]
            self.look[row, place] = self._look(device)
            self.memory[row, place] = device.memory
            self._show(row, place)
        if before != self.look[row][: len(devices)].tolist():
            self._common, self._typical = None, {}

    def _look(self, device: Device) -> int:
        """Number of the card's type: cards of one number differ only in id and place, and in what is taken of them."""
        sample = replace(device, id="", index=0, claim=("", "", ""), parts=(), numa=-1, healthy=True)
        number = self._looks.setdefault(sample, len(self._looks))
        if number == len(self._samples):
            self._samples.append(sample)
        return number

    def _show(self, row: int, place: int) -> None:
        device = self.devices[row][place]
        used = self.used[row].get(device.id, NOTHING)
        self.memory_free[row, place] = device.memory - used.memory
        self.cores_free[row, place] = device.cores - used.cores if device.cores else LIMIT
        self.cpus_free[row, place] = device.cpus - used.cpus
        self.tenants_free[row, place] = device.tenants - used.tenants if device.tenants else LIMIT
        self.pods[row, place] = used.pods
        self.open[row, place] = bool(used.open)
        self.healthy[row, place] = device.healthy
        self.taken[row, place] = bool(used.whole)
        self.slices[row, place] = mask(device, used) if device.layout else 0

    def free_milli(self, row: int) -> list[int]:
        """Free thousandths of each card of the row, by place."""
        return [free_milli(device, self.used[row].get(device.id, NOTHING)) for device in self.devices[row]]

    def forget_asked(self) -> None:
        """What is kept by what pods ask, of which there is no end: amounts, names of containers and of cards."""
        self._asked.clear()
        self._typical.clear()

    # what fits

    def typical(self, ask: PodAsk) -> int:
        """Thousandths of a card that the pod takes of the commonest card that could carry it; 1000 where none could."""
        kept = self._typical.get(ask)
        if kept is None:
            kept = self._typical[ask] = self._typical_of(ask)
        return kept

    def _typical_of(self, ask: PodAsk) -> int:
        if self._common is None:
            self._common = [number for number, _ in Counter(self.look[self.kind != NO_KIND].tolist()).most_common()]
        group = ask.groups[0]
        for number in self._common:
            sample = self._samples[number]
            more = self._needs(ask, group, sample) if ask.accepts_model(sample.model) else None
            if more is not None and sample.layout:
                found = KINDS[sample.kind].by_model[sample.layout]
                profile = found.profile(group[0].profile)
                return 1000 * (profile.size if profile else found.slices) // found.slices
            if more is not None:
                return min(max(1000 - free_milli(sample, more), 1), 1000)
        return 1000

    def usable(self, ask: PodAsk, rows: Ints) -> Bools:
        """bool[n, C]: cards that could carry one card's part of the pod, the nodes' policy apart."""
        if ask.single:
            return self._carries(ask, ask.groups[0], rows)
        could = np.zeros((len(rows), self.kind.shape[1]), np.bool_)
        for group in ask.groups:
            could |= self._carries(ask, group, rows)
        return could

    def feasible(self, ask: PodAsk, rows: Ints) -> Bools:
        """bool[n]: rows that can take the pod, exactly."""
        ok = np.ones(len(rows), np.bool_)
        for group in ask.groups:
            ok &= np.add.reduce(self._carries(ask, group, rows), axis=1) >= group[0].cards
        if ask.single and not ask.one_numa:
            ok &= self._given(ask, rows)
            return ok
        for at in ok.nonzero()[0].tolist():
            row = int(rows[at])
            ok[at] = not isinstance(fit(ask, self.devices[row], self.used[row], self.rules[row]), Refusal)
        return ok

    def _given(self, ask: PodAsk, rows: Ints) -> Bools:
        """bool[n]: rows whose policy has nothing against the pod (`fit.forbidden`), with what is on their cards."""
        ok, apart = np.ones(len(rows), np.bool_), self._of(self.apart, rows)
        for one in ask.asks:
            if apart.any():
                others = self._of(self.shared, rows) if one.whole else np.logical_or.reduce(self._of(self.taken, rows), axis=1)
                ok &= ~(apart & others)
            if one.whole:
                ok &= self._of(self.whole, rows)
                continue
            if not one.profile:
                ok &= self._of(self.shares, rows)
            if one.cores:
                ok &= self._of(self.bounded, rows) >= 0
            elif not one.profile:
                ok &= self._of(self.bounded, rows) <= 0
        return ok

    def alike(self, ask: PodAsk) -> bool:
        """Whether rows that `sight` shows equal are equal for the pod."""
        return ask.single and not ask.one_numa and not ask.ids and not ask.not_ids

    def sight(self, row: int) -> bytes:
        """What a pod that names no card, and needs none beside another, can see of the row."""
        shown = (self.kind, self.look, self.memory_free, self.cores_free, self.cpus_free, self.tenants_free, self.pods)
        parts = [array[row].tobytes() for array in (*shown, self.open, self.healthy, self.taken, self.slices)]
        rules = (self.whole, self.shares, self.apart, self.bounded, self.order, self.most_pods)
        parts += [array[row].tobytes() for array in rules]
        if self.apart[row]:  # what is on a card that is gone counts there
            uses = self.used[row].values()
            parts.append(bytes([any(use.pods > use.whole for use in uses), any(use.whole for use in uses)]))
        return b"".join(parts)

    def _carries(self, ask: PodAsk, group: Sequence[Ask], rows: Ints) -> Bools:
        """Cards that carry all of the group's containers together."""
        conditions = self._conditions(ask, group, rows)
        ok = next(conditions)[1]  # made for this: nobody else has it
        for _, fits in conditions:
            ok &= fits
        return ok

    def _conditions(self, ask: PodAsk, group: Sequence[Ask], rows: Ints) -> Iterator[tuple[str, Bools]]:
        """What a card must have, word by word, and which cards do: by type of card and what is free."""
        looks = self._of(self.look, rows)
        need = self._needs_of_all(ask, group)
        whole = _on(need.whole, looks)
        yield "cards", self._of(self.kind, rows) == self._kinds[group[0].kind]
        yield "card model", need.right.take(looks)
        if ask.ids or ask.not_ids:
            yield "card id", self._named(ask, rows)
        yield "card health", self._of(self.healthy, rows)
        idle, enough = ~self._of(self.taken, rows), self._of(self.memory_free, rows) >= _on(need.memory, looks)
        if need.whole is None:
            yield "idle cards", idle
            yield "card memory", enough
        else:
            yield "idle cards", idle & ((self._of(self.pods, rows) == 0) | np.equal(whole, 0))
            yield "card memory", enough | ~((self._of(self.memory, rows) > 0) | np.equal(whole, 0))
        some = self._of(self.open, rows)  # somebody sets no bound to its cores: something must be left
        if need.open is not None:
            some = some | (need.open.take(looks) > 0)
        yield "card cores", self._of(self.cores_free, rows) >= _on(need.cores, looks) + some
        if need.cpus is not None:
            yield "card processors", self._of(self.cpus_free, rows) >= need.cpus.take(looks)
        yield "containers per card", self._of(self.tenants_free, rows) >= _on(need.tenants, looks)
        yield "pods per card", self._of(self.pods, rows) < self._of(self.most_pods, rows)[:, None]
        for number in need.cut:
            here = looks == number
            yield "free slices", ~here | self._room(number, group[0].profile)[self._of(self.slices, rows) * here]

    def whole_at_times(self, ask: PodAsk) -> bool:
        """Whether there are types of cards of which a single pod takes one as a whole, be it by asking for a share."""
        return self._needs_of_all(ask, ask.groups[0]).whole is not None

    def independent(self, ask: PodAsk) -> bool:
        """Whether each card alone says how many such pods it takes: they ask for a part of one card, and none is cut."""
        return ask.single and ask.groups[0][0].cards == 1 and not self._needs_of_all(ask, ask.groups[0]).cut

    def units(self, ask: PodAsk, rows: Ints) -> Ints:
        """int64[n, C]: how many pods of an `independent` ask each card takes, the nodes' policy apart."""
        group = ask.groups[0]
        looks, need = self._of(self.look, rows), self._needs_of_all(ask, group)
        some = self._of(self.open, rows) | np.greater(_on(need.open, looks), 0)
        left: Ints = self._of(self.most_pods, rows)[:, None] - self._of(self.pods, rows)
        for asked, free in (
            (need.memory, self._of(self.memory_free, rows)),
            (need.cores, self._of(self.cores_free, rows) - some),
            (need.cpus, self._of(self.cpus_free, rows)),
            (need.tenants, self._of(self.tenants_free, rows)),
        ):
            if asked is not None:
                each = asked.take(looks)
                left = np.minimum(left, np.where(each > 0, free // np.maximum(each, 1), LIMIT))
        carried = self._carries(ask, group, rows)
        result: Ints = np.where(carried, np.where(np.greater(_on(need.whole, looks), 0), 1, left), 0)
        return result

    @staticmethod
    def _of(array: npt.NDArray[AnyArray], rows: Ints) -> npt.NDArray[AnyArray]:
        """Those rows of an array. Rows are in order and named once: as many as there are, are all, and nothing is copied."""
        return array if len(rows) == len(array) else array.take(rows, axis=0)  # by `take`: a fourth of what array[rows] costs

    def _needs_of_all(self, ask: PodAsk, group: Sequence[Ask]) -> _Needs:
        """By type of card, as far as types are known by now."""
        kept = self._asked.get((ask, group[0]))
        if kept is not None and len(kept.right) == len(self._samples):
            return kept
        need = np.zeros((6, len(self._samples)), np.int64)
        right = np.zeros(len(self._samples), np.bool_)
        cut = list[int]()
        for number, sample in enumerate(self._samples):
            more = self._needs(ask, group, sample)
            if more is None or not ask.accepts_model(sample.model):
                continue
            right[number] = True
            need[:, number] = more.memory, more.cores, more.cpus, more.tenants, more.whole, more.open
            if sample.layout:
                cut.append(number)
                need[:3, number] = 0
        size = np.array([(sample.memory, sample.cores) for sample in self._samples], np.int64).reshape(-1, 2)
        memory, cores, cpus, tenants, whole, unbounded = (one if one.any() else None for one in need)
        made = _Needs(memory, cores, cpus, tenants, whole, unbounded, right, tuple(cut), size)
        self._asked[ask, group[0]] = made
        return made

    def lacks(self, ask: PodAsk, rows: Ints) -> list[tuple[str, Bools]]:
        """Words, and bool[n] which rows lack it. A row counts for the first thing, in the order above, that few cards have."""
        found, still = dict[str, Bools](), np.ones(len(rows), np.bool_)
        for group in ask.groups:
            ok = np.ones((len(rows), self.kind.shape[1]), np.bool_)
            for word, fits in self._conditions(ask, group, rows):
                ok &= fits
                short = still & (ok.sum(axis=1) < group[0].cards)
                found[word] = found[word] | short if word in found else short
                still &= ~short
        at = np.flatnonzero(still)
        for place in at[~self.feasible(ask, rows[at])].tolist():
            row = int(rows[place])
            word = forbidden(ask, self.devices[row], self.used[row], self.rules[row]) or "cards that fit together"
            found.setdefault(word, np.zeros(len(rows), np.bool_))[place] = True
        return [(word, short) for word, short in found.items() if short.any()]

    def _needs(self, ask: PodAsk, group: Sequence[Ask], sample: Device) -> Use | None:
        """What the group needs of a card of that type, None if such a card never carries it."""
        parts = list[Part]()
        for one in group:
            part = one.part(sample)
            if part is None:
                return None
            parts.append(part)
        if sample.layout:
            return use_of(parts) if len(parts) == 1 else None
        return collapse(ask.seats, parts)[sample.id]

    def _room(self, number: int, profile: str) -> Bools:
        """bool[2^bits]: whether a part of that profile still goes on a cut card with those bits taken."""
        kept = self._answers.get((number, profile))
        if kept is None:
            sample = self._samples[number]
            model = KINDS[sample.kind].by_model[sample.layout]
            bits = model.slices + len(model.profiles)
            kept = np.zeros(1 << bits, np.bool_)
            kept[:] = _rooms(sample, profile, bits)
            self._answers[number, profile] = kept
        return kept

    def _named(self, ask: PodAsk, rows: Ints) -> Bools:
        ok = np.zeros((len(rows), self.kind.shape[1]), np.bool_)
        for at, row in enumerate(rows):
            for place, device in enumerate(self.devices[int(row)]):
                ok[at, place] = (not ask.ids or device.id in ask.ids) and device.id not in ask.not_ids
        return ok

    def grant(self, ask: PodAsk, row: int, first: int = -1) -> tuple[Part, ...] | Refusal:
        """The parts that the pod would get on the row; `first`: the place that a policy likes best."""
        return fit(ask, self.devices[row], self.used[row], self.rules[row], first)

    def place_of(self, row: int, name: str) -> int:
        """Place of the card with that id."""
        return next(place for place, device in enumerate(self.devices[row]) if device.id == name)

    def free_with(self, row: int, more: Mapping[str, Use]) -> dict[str, int]:
        """Free thousandths of the cards named, if they carried that too."""
        held = self.used[row]
        return {d.id: free_milli(d, held.get(d.id, NOTHING) + more[d.id]) for d in self.devices[row] if d.id in more}

    def places(self, row: int, parts: Sequence[Part]) -> tuple[int, ...]:
        """Places of the row that the parts lie on, in order."""
        held = {part.device for part in parts}
        return tuple(place for place, device in enumerate(self.devices[row]) if device.id in held)

    def after(self, ask: PodAsk, rows: Ints) -> Ints:
        """int64[n, C]: free thousandths of each card with a part of the pod's first group on it, where `usable` is true."""
        looks, group = self._of(self.look, rows), ask.groups[0]
        need = self._needs_of_all(ask, group)
        left: Ints = np.full(looks.shape, 1000, np.int64)
        free = (self._of(self.memory_free, rows), self._of(self.cores_free, rows))
        for there, asked, size in zip(free, (need.memory, need.cores), need.size.T, strict=True):
            if size.any():
                full = size.take(looks)
                spare = np.where(full > 0, there - _on(asked, looks), 1)  # of what is not counted, all is left
                np.minimum(left, 1000 * spare // np.maximum(full, 1), out=left)
        np.maximum(left, 0, out=left)
        for number in need.cut:
            here, sample = looks == number, self._samples[number]
            model = KINDS[sample.kind].by_model[sample.layout]
            found = model.profile(group[0].profile)
            taken = self._bits[self._of(self.slices, rows)[here] & ((1 << model.slices) - 1)] + (found.size if found else 0)
            left[here] = 1000 * np.maximum(model.slices - taken, 0) // model.slices
        never = ~need.right if need.whole is None else ~need.right | (need.whole > 0)
        left[never.take(looks)] = 0
        return left

    # what changes

    def take(self, row: int, ask: PodAsk, parts: Sequence[Part]) -> str:
        """Books a pod. "" if it fits, else why not, with nothing booked."""
        uses = collapse(ask.seats, parts)
        by_id = {device.id: device for device in self.devices[row]}
        for name, more in uses.items():
            if name not in by_id:
                return f"card {name} is gone"
            word = lack(by_id[name], self.used[row].get(name, NOTHING), more, self.rules[row])
            if word:
                return f"card {name}: {word}"
        self._book(row, uses, 1)
        return ""

    def give(self, row: int, ask: PodAsk, parts: Sequence[Part]) -> None:
        """The exact inverse of `take`. Raises ValueError for what was not taken."""
        uses = collapse(ask.seats, parts)
        for name, less in uses.items():
            held = self.used[row].get(name, NOTHING)
            if held.pods < less.pods or held.memory < less.memory or set(less.instances) - set(held.instances):
                raise ValueError(f"card {name} does not hold that much: this was not taken")
        self._book(row, uses, -1)

    def _book(self, row: int, uses: Mapping[str, Use], sign: int) -> None:
        for name, use in uses.items():
            held = self.used[row].pop(name, NOTHING)
            left = held + use if sign > 0 else held - use
            if left != NOTHING:
                self.used[row][name] = left
        self.shared[row] = any(use.pods > use.whole for use in self.used[row].values())
        for place, device in enumerate(self.devices[row]):
            if device.id in uses:
                self._show(row, place)


def _rooms(sample: Device, profile: str, bits: int) -> Bools:
    """For every set of taken bits, whether the profile has a start left. By starts, not by sets: 7 passes over 2^bits."""
    model = KINDS[sample.kind].by_model[sample.layout]
    room = np.zeros(1 << bits, np.bool_)
    found = model.profile(profile)
    sets = np.arange(1 << bits)
    for start in found.starts if found else ():
        if sample.instances and (profile, start) not in sample.instances:
            continue
        taken = mask(sample, Use(instances=((profile, start),)))
        room |= (sets & taken) == 0
    return room
