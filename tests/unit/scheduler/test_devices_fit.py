"""Which cards of a node a pod gets: cases by hand, and arrays against the exact answer."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from devicekit import RULES, cut, devices, gpu, npu, one, pod_asks, several
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.scheduler.devices.arrays import Cards
from forebay.scheduler.devices.ask import Ask, PodAsk
from forebay.scheduler.devices.card import ANY, NOTHING, Device, Part, Rules, Seat, Use, collapse, free_milli, lack, use_of
from forebay.scheduler.devices.fit import Refusal, fit
from forebay.scheduler.devices.vendors.kinds import GIB
from forebay.scheduler.devices.vendors.table import KINDS, check

T4S = (gpu(0), gpu(1), gpu(2))


def used(**cards: Use) -> dict[str, Use]:
    return {name.replace("_", "-"): use for name, use in cards.items()}


def half(memory: int = 8, cores: int = 0, **more: Any) -> Use:
    return Use(memory * GIB, cores, tenants=1, pods=1, open=int(not cores), **more)


def got(ask: PodAsk, cards: tuple[Device, ...], held: dict[str, Use] | None = None, rules: Rules = ANY) -> Any:
    """(container, card number, ...) of a fit, or the refusal's sentence. The arrays must say the same."""
    found = fit(ask, cards, held or {}, rules)
    arrays = Cards([cards], [rules], len(cards))
    arrays.load(0, cards, rules, held or {})
    assert arrays.feasible(ask, np.arange(1))[0] == (not isinstance(found, Refusal))
    if isinstance(found, Refusal):
        return found.sentence()
    return [(part.container, part.index, part.memory // GIB, part.cores, part.profile, part.start) for part in found]


def test_the_table_is_sound() -> None:
    assert check(KINDS.values()) == []


@pytest.mark.parametrize(
    ("product", "kind", "model"),
    [
        ("NVIDIA A100-SXM4-80GB", "gpu", "A100-80GB"),
        ("NVIDIA-A100-SXM4-40GB", "gpu", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "gpu", "H100-80GB"),
        ("NVIDIA H100 NVL", "gpu", "H100-94GB"),
        ("NVIDIA H200", "gpu", "H200-141GB"),
        ("NVIDIA H20", "gpu", "H20-96GB"),
        ("Tesla T4", "gpu", None),
        ("Ascend910B4-1", "npu", "Ascend910B4-1"),
        ("Ascend910B4", "npu", "Ascend910B4"),
        ("910B3", "npu", "Ascend910B3"),
    ],
)
def test_product_names_lead_to_models(product: str, kind: str, model: str | None) -> None:
    found = KINDS[kind].model_of(product)
    assert (found.name if found else None) == model


def test_a_share_goes_where_least_is_left_and_spreads_if_told() -> None:
    held = used(GPU_1=half(8), GPU_2=half(12))
    assert got(one(memory=4 * GIB), T4S, held) == [("c", 2, 4, 0, "", -1)]
    assert got(one(memory=6 * GIB), T4S, held) == [("c", 1, 6, 0, "", -1)]
    assert got(one(memory=4 * GIB), T4S, held, Rules(cards_by="spread")) == [("c", 0, 4, 0, "", -1)]


def test_memory_and_cores_are_bounds_of_their_own() -> None:
    held = used(GPU_0=half(4, 80), GPU_1=half(14, 10), GPU_2=half(8, 50))
    assert got(one(memory=8 * GIB, cores=50), T4S, held) == [("c", 2, 8, 50, "", -1)]
    assert got(one(memory=8 * GIB, cores=60), T4S, held) == "card cores (2); card memory (1)"


def test_who_sets_no_bound_to_its_cores_is_left_some() -> None:
    assert got(one(memory=GIB), T4S[:1], used(GPU_0=half(1, 100))) == "card cores (1)"
    assert got(one(memory=GIB, cores=100), T4S[:1], used(GPU_0=half(1))) == "card cores (1)"
    assert got(one(memory=GIB, cores=99), T4S[:1], used(GPU_0=half(1))) == [("c", 0, 1, 99, "", -1)]


def test_whole_cards_are_idle_and_stay_alone() -> None:
    assert got(one(cards=2, whole=True), T4S, used(GPU_1=half())) == [("c", 0, 16, 100, "", -1), ("c", 2, 16, 100, "", -1)]
    assert got(one(cards=3, whole=True), T4S, used(GPU_1=half())) == "idle cards (1)"
    assert (
        got(one(memory=GIB), T4S[:1], used(GPU_0=use_of([Part("c", "GPU-0", 0, "gpu", 16 * GIB, whole=True)])))
        == "card taken whole (1)"
    )


def test_cards_of_unlike_sizes_on_one_node() -> None:
    mixed = (gpu(0, 16), gpu(1, 40, "NVIDIA A100-SXM4-40GB"), gpu(2, 24, "NVIDIA A10"))
    assert got(one(percent=50), mixed) == [("c", 0, 8, 0, "", -1)]
    assert got(one(memory=20 * GIB), mixed, used(GPU_2=half(1))) == [("c", 2, 20, 0, "", -1)]
    assert got(one(memory=30 * GIB), mixed) == [("c", 1, 30, 0, "", -1)]
    assert got(one(memory=60 * GIB), mixed) == "card memory (3)"


@pytest.mark.parametrize(
    ("rules", "ask", "word"),
    [
        (Rules(whole=False), one(whole=True), "node gives no whole cards"),
        (Rules(shares=False), one(memory=GIB), "node shares no cards"),
        (Rules(cores="must"), one(memory=GIB), "node shares cards only with bounded cores"),
        (Rules(cores="never"), one(memory=GIB, cores=10), "node does not bound cores"),
        (Rules(mixed=False), one(whole=True), "node keeps whole cards and shares apart"),
        (Rules(max_pods=1), one(memory=GIB), "pods per card"),
    ],
)
def test_a_nodes_policy(rules: Rules, ask: PodAsk, word: str) -> None:
    held = used(GPU_0=half(1), GPU_1=half(1), GPU_2=half(1)) if rules.max_pods else used(GPU_1=half())
    assert word in got(ask, T4S, held, rules)
    assert word not in str(got(ask, T4S, held))


def test_containers_of_one_pod_share_and_spread() -> None:
    both = several(Ask("a", "gpu", memory=10 * GIB), Ask("b", "gpu", memory=10 * GIB))
    assert got(both, T4S) == [("a", 0, 10, 0, "", -1), ("b", 1, 10, 0, "", -1)]
    assert got(both, T4S[:1]) == "card memory (1)"
    same = several(Ask("a", "gpu", memory=6 * GIB), Ask("b", "gpu", memory=6 * GIB), together=True)
    assert got(same, T4S) == [("a", 0, 6, 0, "", -1), ("b", 0, 6, 0, "", -1)]
    assert got(same, T4S, used(GPU_0=half(8))) == [("a", 1, 6, 0, "", -1), ("b", 1, 6, 0, "", -1)]


def test_init_containers_run_before_and_beside_sidecars() -> None:
    seats = (Seat("i", "init"), Seat("s", "sidecar"), Seat("j", "init"), Seat("a"))

    def parts(**memory: int) -> list[Part]:
        return [Part(name, "GPU-0", 0, "gpu", size * GIB) for name, size in memory.items()]

    assert collapse(seats, parts(i=16, s=4, a=8))["GPU-0"].memory == 16 * GIB  # i is over when s and a run
    assert collapse(seats, parts(i=2, s=4, j=10, a=8))["GPU-0"].memory == 14 * GIB  # j runs beside s
    assert collapse(seats, parts(s=4, a=8))["GPU-0"].memory == 12 * GIB
    whole = several(Ask("i", "gpu", "init", whole=True), Ask("a", "gpu", memory=4 * GIB))
    assert got(whole, T4S, used(GPU_0=half(1), GPU_1=half(1))) == [("i", 2, 16, 100, "", -1), ("a", 0, 4, 0, "", -1)]


def test_containers_that_compete_for_cards_are_tried_otherwise() -> None:
    pair = PodAsk((Ask("a", "gpu", memory=8 * GIB), Ask("b", "gpu", memory=12 * GIB, cores=10)), (Seat("a"), Seat("b")))
    assert got(pair, T4S[:2], used(GPU_0=half(4), GPU_1=half(8))) == [("a", 1, 8, 0, "", -1), ("b", 0, 12, 10, "", -1)]


def test_parts_of_a_cut_card_keep_room_for_large_ones() -> None:
    card = (cut(0),)
    assert got(one(profile="1g.10gb"), card) == [("c", 0, 9, 14, "1g.10gb", 6)]  # the last slice serves nobody else
    busy = used(MIG_0=Use(tenants=1, pods=1, instances=(("1g.10gb", 6),)))
    assert got(one(profile="4g.40gb"), card, busy) == [("c", 0, 39, 57, "4g.40gb", 0)]
    assert got(one(profile="7g.80gb"), card, busy) == "free slices (1)"
    assert got(one(memory=GIB), card) == "card model (1)"
    assert got(one(whole=True), card) == "card model (1)"
    assert got(one(profile="1g.10gb"), T4S) == "card model (3)"


def test_seven_small_parts_and_no_more() -> None:
    held, card = dict[str, Use](), cut(0)
    starts = list[int]()
    for _ in range(7):
        parts = fit(one(profile="1g.10gb"), (card,), held, ANY)
        assert not isinstance(parts, Refusal)
        starts.append(parts[0].start)
        held["MIG-0"] = held.get("MIG-0", NOTHING) + use_of(parts)
    assert sorted(starts) == list(range(7))
    assert isinstance(fit(one(profile="1g.10gb"), (card,), held, ANY), Refusal)
    assert free_milli(card, held["MIG-0"]) == 125  # slice 7 has memory and no cores: only 3g and 7g use it


def test_one_part_with_media_per_card() -> None:
    busy = used(MIG_0=Use(tenants=1, pods=1, instances=(("1g.10gb+me", 6),)))
    assert got(one(profile="1g.10gb+me"), (cut(0),), busy) == "free slices (1)"


def test_parts_that_were_cut_beforehand() -> None:
    card = (cut(0, instances=(("3g.40gb", 4), ("1g.10gb", 0))),)
    assert got(one(profile="3g.40gb"), card) == [("c", 0, 39, 42, "3g.40gb", 4)]
    assert got(one(profile="1g.10gb"), card, used(MIG_0=Use(tenants=1, pods=1, instances=(("1g.10gb", 0),)))) == "free slices (1)"


def test_an_npu_is_cut_along_templates() -> None:
    card = (npu(0),)
    assert got(one(kind="npu", memory=10 * GIB), card) == [("c", 0, 16, 5, "vir05_1c_16g", -1)]
    assert got(one(kind="npu", memory=40 * GIB), card) == [("c", 0, 64, 20, "", -1)]
    held = used(NPU_0=Use(32 * GIB, 10, 3, 1, 1))
    assert got(one(kind="npu", memory=30 * GIB), card, held) == [("c", 0, 32, 10, "vir10_3c_32g", -1)]
    assert got(one(kind="npu", memory=30 * GIB), card, used(NPU_0=Use(32 * GIB, 10, 5, 1, 1))) == "card processors (1)"


def brute(ask: PodAsk, cards: tuple[Device, ...], held: dict[str, Use], rules: Rules) -> bool:
    """Whether any choice of cards carries the pod: all sets of cards for all groups, all places of all parts."""
    from itertools import combinations

    from forebay.scheduler.devices.fit import forbidden

    if forbidden(ask, cards, held, rules):
        return False
    able = [card for card in cards if ask.accepts(card)]
    choices = list[list[tuple[Part, ...]]]()
    for group in ask.groups:
        sets = list[tuple[Part, ...]]()
        for chosen in combinations(able, group[0].cards):
            options = [[_places(one_, card) for one_ in group] for card in chosen]
            flat = [option for card in options for option in card]
            if all(flat):
                sets += [tuple(parts) for parts in product(*flat)]
        choices.append(sets)
    by_id = {card.id: card for card in cards}
    for combined in product(*choices):
        parts = [part for chosen in combined for part in chosen]
        try:
            uses = collapse(ask.seats, parts)
        except ValueError:
            continue
        if all(not lack(by_id[name], held.get(name, NOTHING), more, rules) for name, more in uses.items()):
            return True
    return False


def _places(ask: Ask, card: Device) -> list[Part]:
    import msgspec

    part = ask.part(card)
    if part is None:
        return []
    table = card.table
    profile = table.profile(part.profile) if table and part.profile else None
    if profile is None or not profile.size:
        return [part]
    return [msgspec.structs.replace(part, start=start) for start in profile.starts]


@settings(max_examples=250, deadline=None)
@given(st.lists(devices(), min_size=1, max_size=4), st.data())
def test_arrays_say_what_the_exact_answer_says(nodes: list[tuple[Device, ...]], data: st.DataObject) -> None:
    rules = [data.draw(st.sampled_from(RULES)) for _ in nodes]
    cards = Cards(nodes, rules, max(len(node) for node in nodes))
    rows = np.arange(len(nodes))
    for ask in data.draw(st.lists(pod_asks(), min_size=1, max_size=10)):
        feasible = cards.feasible(ask, rows)
        usable = cards.usable(ask, rows)
        lacks = cards.lacks(ask, rows)
        assert (sum((short.astype(int) for _, short in lacks), np.zeros(len(rows), int)) == ~feasible).all()
        for row, node in enumerate(nodes):
            parts = cards.grant(ask, row)
            assert feasible[row] == (not isinstance(parts, Refusal))
            if len(ask.asks) <= 2 and len(node) <= 3:
                assert feasible[row] == brute(ask, node, cards.used[row], rules[row])
            if isinstance(parts, Refusal):
                continue
            assert all(usable[row, place] for place in cards.places(row, parts))
            after = cards.after(ask, rows)[row]
            before = dict(cards.used[row])
            if data.draw(st.booleans()):
                assert cards.take(row, ask, parts) == ""
                if ask.single and len({part.device for part in parts}) == ask.groups[0][0].cards:
                    assert [cards.free_milli(row)[place] for place in cards.places(row, parts)] == [
                        after[place] for place in cards.places(row, parts)
                    ]
                if data.draw(st.booleans()):
                    cards.give(row, ask, parts)
                    assert cards.used[row] == before
        fresh = Cards(nodes, rules, max(len(node) for node in nodes))
        for row, node in enumerate(nodes):
            fresh.load(row, node, rules[row], cards.used[row])
        for name in (
            "kind",
            "memory_free",
            "cores_free",
            "cpus_free",
            "tenants_free",
            "pods",
            "open",
            "taken",
            "slices",
            "healthy",
        ):
            assert (getattr(fresh, name) == getattr(cards, name)).all(), name
