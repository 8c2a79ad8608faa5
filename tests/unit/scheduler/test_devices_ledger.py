"""The ledger: cases by hand, order of events, and random sequences against sums counted anew."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from devicekit import RULES, cut, devices, gpu, pod_asks, random_ask, random_cards
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from forebay.scheduler.devices.ask import PodAsk
from forebay.scheduler.devices.card import ANY, NOTHING, Device, Part, Rules, Seat, Use, mask_of
from forebay.scheduler.devices.fit import Refusal, fit
from forebay.scheduler.devices.ledger import Ledger, Refused
from forebay.scheduler.devices.record import Record
from forebay.scheduler.devices.vendors.kinds import GIB

SEATS = (Seat("c"),)


def share(uid: str, memory: int = 4, card: int = 0, node: str = "n1", **more: int) -> Record:
    return Record(uid, f"team/{uid}", node, SEATS, (Part("c", f"GPU-{card}", card, "gpu", memory * GIB, **more),), time=1)


def ledger(*cards: Device, rules: Rules = ANY) -> Ledger:
    made = Ledger()
    made.set_node("n1", cards or (gpu(0), gpu(1)), rules)
    return made


def test_assume_confirm_remove() -> None:
    books = ledger()
    assert books.assume(share("a"))
    assert not books.assume(share("a"))  # again, and nothing changes
    assert books.used("n1")["GPU-0"].memory == 4 * GIB
    assert [r.uid for r in books.assumed()] == ["a"]
    assert not books.confirm(share("a"), 5)
    assert books.assumed() == []
    assert not books.release("a")  # the cluster has it
    assert books.remove("a")
    assert not books.remove("a")
    assert books.used("n1") == {}
    assert not books.confirm(share("a"), 9)  # a late event of a pod that is gone
    with pytest.raises(Refused, match="pod team/a is gone"):
        books.assume(share("a"))


def test_a_failed_bind_gives_back() -> None:
    books = ledger()
    books.assume(share("a", 16))
    with pytest.raises(Refused, match="pod team/b: card GPU-0 of node n1 cannot take it: card memory; plan the pod anew"):
        books.assume(share("b", 1))
    assert books.release("a")
    assert not books.release("a")
    assert books.assume(share("b", 1))


def test_a_pod_holds_one_thing() -> None:
    books = ledger()
    books.assume(share("a"))
    with pytest.raises(Refused, match="pod team/a holds cards of node n1 already: release it before it is planned anew"):
        books.assume(share("a", card=1))


def test_a_card_that_is_lost_between_plan_and_bind() -> None:
    books = ledger()
    books.assume(share("a"))
    assert books.check("a") == ""
    books.set_node("n1", (gpu(0, healthy=False), gpu(1)))
    assert books.check("a") == "pod team/a: card GPU-0 of node n1 fell ill since it was planned; plan the pod anew"
    books.set_node("n1", (gpu(1),))
    assert books.check("a") == "pod team/a: card GPU-0 of node n1 is gone since it was planned; plan the pod anew"
    with pytest.raises(Refused, match="card GPU-0 of node n1 is gone since it was planned"):
        books.assume(share("b"))
    assert books.check("b") == "nothing is booked for pod b: plan it anew"


def test_what_is_on_a_lost_card_stays_counted_until_it_is_gone() -> None:
    books = ledger()
    books.confirm(share("a"), 1)
    books.set_node("n1", (gpu(1),))
    assert [(card.id, card.healthy) for card in books.devices("n1")] == [("GPU-1", True), ("GPU-0", False)]
    assert books.used("n1")["GPU-0"].memory == 4 * GIB
    books.set_node("n1", (gpu(0), gpu(1)))  # it comes back: nothing is given out twice
    with pytest.raises(Refused, match="card memory"):
        books.assume(share("b", 14))
    books.set_node("n1", (gpu(1),))
    books.remove("a")
    assert [card.id for card in books.devices("n1")] == ["GPU-1"]
    books.confirm(share("c", card=1), 1)
    assert books.drop_node("n1")
    assert books.used("n1")["GPU-1"].memory == 4 * GIB
    books.remove("c")
    assert books.devices("n1") == ()
    assert not books.drop_node("n1")


def test_somebody_else_fills_a_card() -> None:
    books = ledger()
    books.assume(share("a", 10))
    assert books.confirm(share("x", 10), 1)
    assert books.overfull() == ["card GPU-0 of node n1 holds more memory than it has: move one of team/a, team/x"]
    with pytest.raises(Refused):
        books.assume(share("b", 1))


def test_a_pod_is_bound_elsewhere_than_planned() -> None:
    books = ledger()
    books.set_node("n2", (gpu(0),))
    books.changes()
    books.assume(share("a"))
    assert books.confirm(share("a", node="n2"), 1)
    assert books.used("n1") == {}
    assert books.used("n2")["GPU-0"].pods == 1
    assert books.changes() == {"n1", "n2"}
    assert books.changes() == set()


def test_a_newer_appearance_of_a_pod_counts_and_an_older_one_does_not() -> None:
    books = ledger()
    assert books.confirm(share("a", 4), 7)
    assert not books.confirm(share("a", 9), 6)
    assert books.confirm(share("a", 5), 8)
    assert books.used("n1")["GPU-0"].memory == 5 * GIB


def test_instances_of_a_cut_card_are_never_given_twice() -> None:
    books = ledger(cut(0))

    def part(uid: str, profile: str, start: int) -> Record:
        return Record(uid, uid, "n1", SEATS, (Part("c", "MIG-0", 0, "gpu", GIB, 14, profile=profile, start=start),))

    books.assume(part("a", "3g.40gb", 4))
    with pytest.raises(Refused, match="free slices"):
        books.assume(part("b", "1g.10gb", 5))
    with pytest.raises(Refused, match="free slices"):
        books.assume(part("c", "2g.20gb", 1))  # no such place
    with pytest.raises(Refused, match="card is cut into parts"):
        books.assume(Record("d", "d", "n1", SEATS, (Part("c", "MIG-0", 0, "gpu", GIB),)))
    books.assume(part("e", "4g.40gb", 0))


def test_nothing_is_booked_for_a_node_without_cards() -> None:
    with pytest.raises(Refused, match="node n9 has no cards"):
        ledger().assume(share("a", node="n9"))


def test_a_list_is_the_truth() -> None:
    books = ledger()
    books.confirm(share("gone"), 1)
    books.confirm(share("stays", 2), 1)
    books.assume(share("planned", 1))
    books.remove("back")
    books.replace({"stays": (share("stays", 2), 1), "back": (share("back", 3, card=1), 4)})
    assert set(books.records) == {"stays", "planned", "back"}
    assert books.used("n1")["GPU-0"].memory == 3 * GIB


def picture(books: Ledger) -> object:
    return sorted((uid, r.node, r.parts) for uid, r in books.records.items()), {
        name: dict(books.used(name)) for name in ("n1", "n2")
    }


def test_the_order_of_events_does_not_matter() -> None:
    """Everything a watch can say, each of it twice, in every order."""
    events = [
        ("confirm", "a", 4, 1),
        ("confirm", "a", 5, 2),
        ("confirm", "b", 6, 1),
        ("remove", "c", 0, 0),
        ("confirm", "c", 3, 1),
    ]
    pictures = set[str]()
    for order in permutations(events):
        books = ledger()
        for what, uid, memory, seen in (*order, *order[:2]):
            if what == "confirm":
                books.confirm(share(uid, memory), seen)
            else:
                books.remove(uid)
        pictures.add(repr(picture(books)))
    assert len(pictures) == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_books_are_rebuilt_from_what_pods_hold(data: st.DataObject) -> None:
    books = ledger(gpu(0), gpu(1), cut(2))
    listed = dict[str, tuple[Record, int]]()
    for number in range(data.draw(st.integers(1, 12))):
        ask = data.draw(pod_asks())
        parts = fit(ask, books.devices("n1"), books.used("n1"), ANY)
        if not isinstance(parts, Refusal):
            one_ = Record(f"u{number}", f"team/{number}", "n1", ask.seats, parts)
            books.assume(one_)
            books.confirm(one_, 1)
            listed[one_.uid] = (one_, 1)
    fresh = ledger(gpu(0), gpu(1), cut(2))
    for uid in data.draw(st.permutations(list(listed))):
        fresh.confirm(*listed[uid])
        fresh.confirm(*listed[uid])
    assert picture(fresh) == picture(books)
    again = Ledger()
    again.replace(listed)  # before any node is known: what is held is held
    again.set_node("n1", (gpu(0), gpu(1), cut(2)))
    assert picture(again) == picture(books)


def check(books: Ledger, nodes: tuple[str, ...]) -> None:
    """Sums are what the records say; without other schedulers, no card holds more than it has."""
    for name in nodes:
        sums = dict[str, Use]()
        for held in books.records.values():
            if held.node == name:
                for card, use in held.uses().items():
                    sums[card] = sums.get(card, NOTHING) + use
        assert sums == books.used(name)
        have = {device.id: device for device in books.devices(name)}
        assert set(sums) <= set(have)
        for card, use in sums.items():
            device = have[card]
            bits = [mask_of(device.layout, device.kind, instance) for instance in use.instances]
            assert sum(bits) == _union(bits)
            assert all(bits)
            if not device.layout:
                assert use.memory <= device.memory or not device.memory
                assert not device.cores or use.cores <= device.cores
                assert use.cpus <= device.cpus
            assert not device.tenants or use.tenants <= device.tenants
            assert not use.whole or use.pods == 1


def _union(bits: list[int]) -> int:
    union = 0
    for one_ in bits:
        union |= one_
    return union


NODES = ("n1", "n2", "n3")


class LedgerMachine(RuleBasedStateMachine):
    """Plans, binds that fail, pods that end, cards that come and go, events that come twice and late."""

    pods = Bundle("pods")

    def __init__(self) -> None:
        super().__init__()
        self.books = Ledger()
        self.hardware = dict[str, tuple[Device, ...]]()
        self.number = 0
        self.past = list[tuple[Record, int]]()

    @rule(name=st.sampled_from(NODES), cards=devices(), rules=st.sampled_from(RULES))
    def node(self, name: str, cards: tuple[Device, ...], rules: Rules) -> None:
        if name not in self.hardware:
            self.hardware[name] = cards
            self.books.set_node(name, cards, rules)

    @rule(name=st.sampled_from(NODES), keep=st.sets(st.integers(0, 4)))
    def cards_go_and_come(self, name: str, keep: set[int]) -> None:
        cards = self.hardware.get(name, ())
        self.books.set_node(name, [card for card in cards if card.index in keep], self.books.rules(name))

    @rule(name=st.sampled_from(NODES))
    def node_goes(self, name: str) -> None:
        self.books.drop_node(name)

    @rule(target=pods, name=st.sampled_from(NODES), ask=pod_asks())
    def plan(self, name: str, ask: PodAsk) -> str:
        self.number += 1
        uid = f"u{self.number}"
        parts = fit(ask, self.books.devices(name), self.books.used(name), self.books.rules(name))
        if not isinstance(parts, Refusal):
            planned = Record(uid, uid, name, ask.seats, parts, time=self.number)
            assert self.books.assume(planned)
            self.past.append((planned, self.number))
        return uid

    @rule(name=st.sampled_from(NODES), ask=pod_asks(), shown=devices())
    def plan_of_yesterday(self, name: str, ask: PodAsk, shown: tuple[Device, ...]) -> None:
        """A plan made from cards that are not there, or are full: refused, and nothing changes."""
        self.number += 1
        parts = fit(ask, shown, {}, ANY)
        if isinstance(parts, Refusal):
            return
        before = picture(self.books)
        try:
            self.books.assume(Record(f"u{self.number}", "stale", name, ask.seats, parts))
        except Refused:
            assert picture(self.books) == before

    @rule(uid=pods)
    def bound(self, uid: str) -> None:
        held = self.books.records.get(uid)
        if held is not None:
            self.books.confirm(held, self.number)

    @rule(uid=pods)
    def bind_failed(self, uid: str) -> None:
        self.books.release(uid)

    @rule(uid=pods)
    def pod_ended(self, uid: str) -> None:
        self.books.remove(uid)

    @rule(data=st.data())
    def event_again(self, data: st.DataObject) -> None:
        """An event of a pod that was seen before changes nothing."""
        if not self.past:
            return
        held, seen = data.draw(st.sampled_from(self.past))
        if held.uid in self.books.records:
            before = picture(self.books)
            self.books.confirm(held, seen)
            assert picture(self.books) == before

    @invariant()
    def never_too_much(self) -> None:
        check(self.books, NODES)


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_thousand_steps(seed: int) -> None:
    """25,000 steps a seed: plan, confirm, fail, end, lose and regain cards. No card ever holds more than it has."""
    chance, books, uids = random.Random(seed), Ledger(), list[str]()
    hardware = {name: random_cards(chance, 8) for name in NODES}
    for name, cards in hardware.items():
        books.set_node(name, cards, chance.choice(RULES))
    planned = 0
    for step in range(25_000):
        dice, name = chance.random(), chance.choice(NODES)
        if dice < 0.5:
            ask = random_ask(chance)
            parts = fit(ask, books.devices(name), books.used(name), books.rules(name))
            if not isinstance(parts, Refusal):
                books.assume(Record(f"u{step}", f"u{step}", name, ask.seats, parts, time=step))
                uids.append(f"u{step}")
                planned += 1
        elif dice < 0.9 and uids:
            uid = chance.choice(uids)
            held = books.records.get(uid)
            match chance.randrange(4):
                case 0:
                    books.release(uid)
                case 1 if held is not None:
                    books.confirm(held, step)
                case _:
                    books.remove(uid)
                    uids.remove(uid)
        else:
            kept = [card for card in hardware[name] if chance.random() < 0.8]
            books.set_node(name, kept if dice < 0.95 else hardware[name], books.rules(name))
        if step % 10 == 0:
            check(books, NODES)
    assert planned > 3000
    check(books, NODES)
