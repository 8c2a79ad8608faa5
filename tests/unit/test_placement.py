"""Rendezvous placement: order, balance, and that nothing moves but what must."""

from __future__ import annotations

import random
import uuid

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.cache.members import placement
from forebay.cache.members.roster import Member

uuids = st.uuids().map(str)
weights = st.floats(0.1, 1000.0, allow_nan=False)


def members_of(pairs: dict[str, float]) -> list[Member]:
    return [Member(i, f"h{n}:1", weight=w) for n, (i, w) in enumerate(pairs.items())]


member_lists = st.dictionaries(uuids, weights, min_size=1, max_size=8).map(members_of)
oids = st.binary(min_size=16, max_size=16)


def items(n: int, seed: int = 0) -> list[tuple[bytes, int]]:
    rng = random.Random(seed)
    return [(rng.randbytes(16), rng.randrange(64)) for _ in range(n)]


def fixed(n: int, weight: float = 1.0) -> list[Member]:
    rng = random.Random(n)
    return [Member(str(uuid.UUID(int=rng.getrandbits(128))), f"h{i}:1", weight=weight) for i in range(n)]


@given(member_lists, oids, st.integers(0, 1 << 20), st.randoms())
def test_the_order_depends_on_nothing_but_the_members(ms: list[Member], oid: bytes, segment: int, rng: random.Random) -> None:
    ranked = placement.rank(oid, segment, ms)
    assert sorted(m.id for m in ranked) == sorted(m.id for m in ms)
    shuffled = ms[:]
    rng.shuffle(shuffled)
    moved = [Member(m.id, "elsewhere:9", "c:1", m.weight, "other") for m in shuffled]
    assert [m.id for m in placement.rank(oid, segment, moved)] == [m.id for m in ranked]
    owner = placement.owner(oid, segment, ms)
    assert owner == ranked[0]


@given(member_lists, oids, st.integers(0, 1000), uuids, weights)
def test_who_joins_takes_and_who_leaves_gives_and_nothing_else_moves(
    ms: list[Member], oid: bytes, segment: int, new: str, weight: float
) -> None:
    if new in {m.id for m in ms}:
        return
    before = [m.id for m in placement.rank(oid, segment, ms)]
    after = [m.id for m in placement.rank(oid, segment, [*ms, Member(new, "x:1", weight=weight)])]
    assert [i for i in after if i != new] == before  # seen backwards: who leaves moves nothing of the others


@given(member_lists, oids, st.integers(0, 1000), st.data(), st.floats(1.01, 50))
def test_more_weight_only_takes(ms: list[Member], oid: bytes, segment: int, data: st.DataObject, factor: float) -> None:
    which = data.draw(st.integers(0, len(ms) - 1))
    grown = [Member(m.id, m.data, weight=m.weight * factor) if n == which else m for n, m in enumerate(ms)]
    a, b = placement.rank(oid, segment, ms)[0].id, placement.rank(oid, segment, grown)[0].id
    assert a == b or b == ms[which].id


@pytest.mark.parametrize(
    "shape", [[1, 1, 1], [1, 2, 3, 4], [100, 100, 50, 25, 25], [1] * 16, [1 << 40, 3 << 40, 2 << 40]], ids=str
)
def test_load_follows_the_weights_within_a_tenth(shape: list[float]) -> None:
    ms = [Member(m.id, m.data, weight=float(w)) for m, w in zip(fixed(len(shape)), shape, strict=True)]
    n = 40_000
    load = dict.fromkeys((m.id for m in ms), 0)
    for oid, segment in items(n):
        load[placement.rank(oid, segment, ms)[0].id] += 1
    for m in ms:
        assert load[m.id] == pytest.approx(n * m.weight / sum(shape), rel=0.10)


def test_segments_of_one_object_spread_as_well() -> None:
    ms = fixed(4)
    oid = bytes(16)
    load = dict.fromkeys((m.id for m in ms), 0)
    for segment in range(20_000):
        load[placement.rank(oid, segment, ms)[0].id] += 1
    assert all(4500 <= v <= 5500 for v in load.values()), load


def test_a_leaver_is_replaced_by_all_the_others() -> None:
    ms = fixed(5)
    gone = ms[2].id
    heirs = {m.id: 0 for m in ms if m.id != gone}
    for oid, segment in items(20_000):
        ranked = placement.rank(oid, segment, ms)
        if ranked[0].id == gone:
            heirs[ranked[1].id] += 1
    total = sum(heirs.values())
    assert total == pytest.approx(4000, rel=0.1)
    assert all(v == pytest.approx(total / 4, rel=0.15) for v in heirs.values())


def test_a_member_without_weight_owns_nothing() -> None:
    a, b = fixed(2)
    idle = Member(b.id, b.data, weight=0.0)
    assert placement.rank(bytes(16), 0, [a, idle]) == [a]
    assert placement.rank(bytes(16), 0, [idle]) == []
    assert placement.rank(bytes(16), 0, []) == []
    assert placement.owner(bytes(16), 0, []) is None


def test_scores_are_finite_at_both_ends_of_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    for h in (0, (1 << 64) - 1):
        monkeypatch.setattr(xxhash, "xxh3_64_intdigest", lambda *_, h=h: h)
        assert 0 < placement.score("fresh-member", 1.0, b"item") < float("inf")


@settings(max_examples=50)
@given(member_lists, st.randoms())
def test_the_epoch_is_of_identities_and_weights_alone(ms: list[Member], rng: random.Random) -> None:
    shuffled = ms[:]
    rng.shuffle(shuffled)
    assert placement.epoch(ms) == placement.epoch([Member(m.id, "y:2", weight=m.weight) for m in shuffled])
    assert placement.epoch(ms) != placement.epoch(ms[1:])
    heavier = [Member(ms[0].id, ms[0].data, weight=ms[0].weight * 2), *ms[1:]]
    assert placement.epoch(ms) != placement.epoch(heavier)


def test_directories_spread_and_do_not_follow_each_other() -> None:
    ms = fixed(4)
    load = dict.fromkeys((m.id for m in ms), 0)
    for n in range(4000):
        owner = placement.prefix_owner("ns/d", "s3://b", b"dir%d/" % n, ms)
        assert owner is not None
        assert placement.rank_prefix("ns/d", "s3://b", b"dir%d/" % n, ms)[0] == owner
        load[owner.id] += 1
    assert all(850 <= v <= 1150 for v in load.values()), load
    same = sum(
        placement.prefix_owner("ns/d", "s3://b", b"dir%d/" % n, ms) == placement.prefix_owner("ns/e", "s3://b", b"dir%d/" % n, ms)
        for n in range(1000)
    )
    assert 180 < same < 330
    assert placement.prefix_owner("ns/d", "s3://b", b"", []) is None


def test_the_placement_is_the_same_for_ever() -> None:
    """What is on disks was placed by this hash: a change of it moves every byte of every cluster."""
    ms = [Member(f"00000000-0000-0000-0000-00000000000{i}", "h:1", weight=float(i + 1)) for i in range(4)]
    got = "".join(placement.rank(bytes([i]) * 16, i, ms)[0].id[-1] for i in range(32))
    assert got == "11330322232321130321311130332131"
    assert placement.epoch(ms) == 11944329592938244828
