"""Water-filling: the worked examples, and the properties that make it fair."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.shares import Claim, divide, fair_shares, fill
from forebay.scheduler.quota.tree import Queue, QuotaTree

AMOUNT = st.one_of(st.integers(0, 20), st.integers(0, 1 << 62))


@pytest.mark.parametrize(
    ("total", "caps", "weights", "given_"),
    [
        (0, [5, 5], [1, 1], [0, 0]),
        (10, [5, 5], [1, 1], [5, 5]),
        (100, [5, 5], [1, 1], [5, 5]),  # nobody above its cap
        (10, [9, 9], [1, 1], [5, 5]),
        (10, [2, 90, 90], [1, 1, 1], [2, 4, 4]),  # what the first leaves goes to the others
        (10, [90, 90], [1, 4], [2, 8]),
        (10, [90, 90], [0, 1], [0, 10]),
        (10, [90, 3], [0, 1], [0, 3]),  # weight 0 gets nothing here; `divide` gives it what is left
        (1, [90, 90, 90], [1, 1, 1], [1, 0, 0]),  # ties to the earlier one
        (11, [90, 90], [2, 1], [7, 4]),  # 7.33 and 3.67: the larger remainder gets the unit
        ((1 << 62) + 1, [1 << 62, 1 << 62], [1 << 62, 1 << 62], [(1 << 61) + 1, 1 << 61]),  # products past 2^64 stay exact
        (-5, [5], [1], [0]),
        (5, [], [], []),
    ],
)
def test_fill(total: int, caps: list[int], weights: list[int], given_: list[int]) -> None:
    assert fill(total, caps, weights) == given_


PARTIES = st.lists(st.tuples(AMOUNT, st.integers(0, 1 << 40)), max_size=8)


@given(AMOUNT, PARTIES)
def test_fill_is_the_level_of_water(total: int, parties: list[tuple[int, int]]) -> None:
    caps, weights = [c for c, _ in parties], [w for _, w in parties]
    got = fill(total, caps, weights)
    assert all(0 <= x <= c for x, c in zip(got, caps, strict=True))
    assert sum(got) == min(total, sum(c for c, w in parties if w))  # nothing is lost, nothing is invented
    for x, (c, w) in zip(got, parties, strict=True):
        if x < c and w:  # one that got less than it asked stands as high as the water, up to a unit: nobody's level is above
            assert all(y <= 1 or (y - 1) * w <= (x + 1) * v for y, (_, v) in zip(got, parties, strict=True) if v)


def test_koordinators_example() -> None:
    """reference: total 30; A weight 1, asks 20, floor 5; B 2, 9, 4; C asks 3, floor 6, lends."""
    claims = [Claim(20, 5, 0, 1), Claim(9, 4, 0, 2), Claim(3, 6, 0, 1)]
    assert divide(30, claims) == [18, 9, 3]


@pytest.mark.parametrize(
    ("total", "claims", "shares"),
    [
        (30, [Claim(20, 5, 0, 1), Claim(9, 4, 0, 2), Claim(3, 6, 6, 1)], [15, 9, 6]),  # C keeps its min: 3 less for the others
        (30, [Claim(20, 5, 0, 1), Claim(9, 4, 0, 2), Claim(3, 6, 4, 1)], [17, 9, 4]),  # C lends 2 of 6
        (10, [Claim(10, 10, 0, 1), Claim(10, 10, 0, 1)], [5, 5]),  # mins of 20 for 10
        (10, [Claim(15, 15, 0, 1), Claim(5, 5, 0, 1)], [8, 2]),  # in proportion to the mins: 7.5 and 2.5
        (10, [Claim(8, 8, 0, 1, scales=False), Claim(8, 8, 0, 1)], [8, 2]),
        (6, [Claim(8, 8, 0, 1, scales=False), Claim(8, 8, 0, 1)], [6, 0]),
        (10, [Claim(8, 20, 0, 1), Claim(2, 20, 0, 1)], [8, 2]),  # mins of 40 for 10, but only 10 are asked for: no scaling
        (10, [Claim(9, 0, 0, 0), Claim(4, 0, 0, 1)], [6, 4]),  # weight 0 comes last, but nothing lies idle
        (10, [Claim(9, 0, 0, 0), Claim(9, 0, 0, 0)], [5, 5]),
        (0, [Claim(9, 5, 5, 1)], [0]),
    ],
)
def test_divide(total: int, claims: list[Claim], shares: list[int]) -> None:
    assert divide(total, claims) == shares


@st.composite
def claims_of_a_level(draw: st.DrawFn) -> list[Claim]:
    claims = []
    for _ in range(draw(st.integers(0, 7))):
        floor = draw(AMOUNT)
        keep = draw(st.integers(0, floor))
        claims.append(Claim(draw(AMOUNT), floor, keep, draw(st.integers(0, 1 << 30)), draw(st.booleans())))
    return claims


@given(AMOUNT, claims_of_a_level())
def test_properties_of_a_level(total: int, claims: list[Claim]) -> None:
    shares = divide(total, claims)
    wanted = [max(c.request, c.keep) for c in claims]
    assert all(0 <= s <= w for s, w in zip(shares, wanted, strict=True))  # never more than it asks, or keeps
    assert sum(shares) == min(total, sum(wanted))  # work conserving
    needs = [max(min(c.request, c.floor), c.keep) for c in claims]
    if sum(needs) <= total:  # mins hold, whatever the others ask
        assert all(s >= n for s, n in zip(shares, needs, strict=True))
        return
    assert all(s <= n for s, n in zip(shares, needs, strict=True))  # nobody gets beyond its min while another misses its own
    firm_short = any(s < n for s, n, c in zip(shares, needs, claims, strict=True) if not c.scales)
    assert not firm_short or all(s == 0 for s, c in zip(shares, claims, strict=True) if c.scales)


@given(AMOUNT, claims_of_a_level(), st.data())
def test_who_lies_gets_no_more(total: int, claims: list[Claim], data: st.DataObject) -> None:
    """Asking for more than it needs never takes from another's min, and asking for less never earns a queue more."""
    if not claims:
        return
    i = data.draw(st.integers(0, len(claims) - 1))
    less = claims[i]._replace(request=data.draw(st.integers(0, claims[i].request)))
    before = divide(total, claims)[i]
    after = divide(total, [*claims[:i], less, *claims[i + 1 :]])[i]
    assert after <= max(before, less.keep) + 1  # a unit of rounding


@given(AMOUNT, claims_of_a_level(), st.integers(1, 1000))
def test_more_for_all_is_less_for_none(total: int, claims: list[Claim], more: int) -> None:
    low, high = divide(total, claims), divide(total + more * max(1, len(claims)), claims)
    assert all(after >= before - 1 for before, after in zip(low, high, strict=True))


def tree(*queues: Queue, root: Queue | None = None) -> QuotaTree:
    findings = Findings()
    built = build(queues, findings, root=root)
    assert not [p for p in findings.problems if p.severity == "error"]
    return built


GPU = "nvidia.com/gpu"


def test_children_divide_their_parents_share() -> None:
    quotas = tree(
        Queue(name="algorithm", min={GPU: 40}, max={GPU: 80}),
        Queue(name="video", parent="algorithm", min={GPU: 30}, max={GPU: 80}),
        Queue(name="text", parent="algorithm", min={GPU: 10}, max={GPU: 80}),
        Queue(name="ops", min={GPU: 60}, max={GPU: 100}),
    )
    shares = fair_shares(quotas, {"video": {GPU: 100}, "text": {GPU: 100}, "ops": {GPU: 20}}, {GPU: 100})
    assert (shares.of("ops", GPU), shares.of("algorithm", GPU)) == (20, 80)
    assert (shares.of("video", GPU), shares.of("text", GPU)) == (50, 30)  # 30 + 20 and 10 + 20: equal weights
    shares = fair_shares(quotas, {"video": {GPU: 100}, "text": {GPU: 100}, "ops": {GPU: 100}}, {GPU: 100})
    assert (shares.of("ops", GPU), shares.of("video", GPU), shares.of("text", GPU)) == (60, 30, 10)
    assert shares.demand("algorithm", GPU) == 80  # cut to its max


def test_what_is_not_named() -> None:
    quotas = tree(Queue(name="a", max={GPU: 4}), Queue(name="b"))
    shares = fair_shares(quotas, {"a": {GPU: 9, "rdma": 1}, "b": {GPU: 9, "rdma": 1}}, {GPU: 8})
    assert (shares.of("a", GPU), shares.of("b", GPU)) == (3, 5)  # b has no ceiling: it weighs as much as the total, 8 to 4
    assert shares.of("a", "rdma") is None
    unbounded = fair_shares(quotas, {"a": {GPU: 9}, "b": {GPU: 9}}, {})
    assert (unbounded.of("a", GPU), unbounded.of("b", GPU)) == (4, 9)


def test_a_parent_without_a_min_passes_on_its_childrens() -> None:
    quotas = tree(Queue(name="team"), Queue(name="leaf", parent="team", min={GPU: 6}), Queue(name="other", max={GPU: 100}))
    shares = fair_shares(quotas, {"leaf": {GPU: 9}, "other": {GPU: 100}}, {GPU: 8})
    assert (quotas.floors["team"][GPU], shares.of("leaf", GPU), shares.of("other", GPU)) == (6, 7, 1)


def test_the_root_has_the_less_of_its_max_and_the_cluster() -> None:
    quotas = tree(Queue(name="a", min={GPU: 8}), root=Queue(name="root", min={GPU: 16}, max={GPU: 16}))
    assert fair_shares(quotas, {"a": {GPU: 99}}, {GPU: 4}).of("a", GPU) == 4
    assert fair_shares(quotas, {"a": {GPU: 99}}, {GPU: 99}).of("a", GPU) == 16


@st.composite
def forests(draw: st.DrawFn) -> tuple[QuotaTree, dict[str, dict[str, int]], int]:
    """Trees of up to 12 queues whose mins nest, with requests, and a total."""
    count = draw(st.integers(1, 12))
    small = st.integers(0, 50)
    queues = []
    for i in range(count):
        parent = draw(st.sampled_from(["", *(q.name for q in queues)]))
        least = draw(small)
        most = draw(st.none() | st.integers(least, 120))
        weight = draw(st.none() | st.integers(0, 9))
        lent = draw(st.none() | st.integers(0, least))
        queues.append(
            Queue(
                name=f"q{i}",
                parent=parent,
                min={GPU: least},
                max={} if most is None else {GPU: most},
                weight={} if weight is None else {GPU: weight},
                lend={} if lent is None else {GPU: lent},
                lends=draw(st.booleans()),
                scales=draw(st.booleans()),
            )
        )
    built = build(queues, Findings())
    leaves = [n for n in built.queues if built.is_leaf(n)]
    requests = {leaf: {GPU: draw(st.integers(0, 200))} for leaf in leaves}
    return built, requests, draw(st.integers(0, 300))


@given(forests())
def test_properties_of_a_tree(forest: tuple[QuotaTree, dict[str, dict[str, int]], int]) -> None:
    quotas, requests, total = forest
    shares = fair_shares(quotas, requests, {GPU: total})

    def share(name: str) -> int:
        return shares.of(name, GPU) or 0

    for name, below in quotas.children.items():
        ceiling = quotas.ceilings[name].get(GPU)
        assert ceiling is None or share(name) <= ceiling
        if not below:
            continue
        wanted = sum(shares.demand(child, GPU) for child in below)
        assert sum(map(share, below)) == min(share(name), wanted)  # all that a parent has is given on, and no more
        floors = {c: quotas.floors[c].get(GPU, 0) for c in below}
        if sum(floors.values()) <= share(name):
            assert all(share(c) >= min(floors[c], shares.demand(c, GPU)) for c in below)
    assert share(quotas.root) <= total


@given(forests())
def test_order_of_declaration_does_not_matter(forest: tuple[QuotaTree, dict[str, dict[str, int]], int]) -> None:
    quotas, requests, total = forest
    turned = build(
        [q for q in reversed(quotas.queues.values()) if q.name != quotas.root], Findings(), root=quotas.queues[quotas.root]
    )
    assert fair_shares(quotas, requests, {GPU: total}).row("q0") == fair_shares(turned, requests, {GPU: total}).row("q0")
