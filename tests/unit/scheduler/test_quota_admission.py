"""Admission up the path, borrowing, lending, and sentences that say what would help."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.scheduler.quota.admission import admit, borrowed
from forebay.scheduler.quota.amounts import JOBS
from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.tree import Queue, QuotaTree

GPU, MEM, CACHE = "nvidia.com/gpu", "aliyun.com/gpu-mem", "forebay.io/cache-bytes"


def books(*queues: Queue, used: dict[str, dict[str, int]] | None = None, root: Queue | None = None) -> Books:
    result = Books(build(queues, Findings(), root=root))
    for leaf, amounts in (used or {}).items():
        result.book(leaf, amounts)
    return result


TEAMS = (
    Queue(name="algorithm", min={GPU: 8}, max={GPU: 16}),
    Queue(name="video", parent="algorithm", min={GPU: 6}, max={GPU: 12}),
    Queue(name="text", parent="algorithm", min={GPU: 2}, max={GPU: 12}),
)


@pytest.mark.parametrize(
    ("used", "leaf", "asked", "answer"),
    [
        ({}, "video", 6, 'queue "video" admits it within its min'),
        ({"video": 4}, "video", 4, 'queue "video" admits it; borrowed within "algorithm": 2 nvidia.com/gpu'),
        ({"video": 6, "text": 2}, "video", 3, 'queue "video" admits it; borrowed within "(cluster)": 3 nvidia.com/gpu'),
        ({"video": 8}, "video", 4, 'queue "video" admits it; borrowed within "(cluster)": 4 nvidia.com/gpu'),
        (
            {"video": 10},
            "video",
            4,
            'queue "video" has 10 of 12 nvidia.com/gpu in use and 4 are asked: 2 too many; wait until 2 are freed below it, '
            "ask for at most 2, or raise its max to 14",
        ),
        (
            {"video": 12},
            "text",
            6,
            'queue "algorithm" has 12 of 16 nvidia.com/gpu in use and 6 are asked: 2 too many; wait until 2 are freed below it, '
            "ask for at most 4, or raise its max to 18",
        ),
        (
            {"video": 12, "text": 4},
            "video",
            1,
            'queue "video" has 12 of 12 nvidia.com/gpu in use and 1 are asked: 1 too many; wait until 1 are freed below it, '
            "raise its max to 13 (and 1 more)",
        ),
        (
            {},
            "video",
            13,
            'queue "video" can never give 13 nvidia.com/gpu: its max of nvidia.com/gpu is 12; ask for at most 12, '
            "or raise its max to 13",
        ),
    ],
)
def test_up_the_path(used: dict[str, int], leaf: str, asked: int, answer: str) -> None:
    state = books(*TEAMS, used={q: {GPU: n} for q, n in used.items()})
    verdict = admit(state, leaf, {GPU: asked})
    assert verdict.sentence() == answer
    assert verdict.admitted == ("admits" in answer)


def test_what_no_queue_names_is_not_governed() -> None:
    state = books(*TEAMS, used={"video": {GPU: 12, "cpu": 1 << 70}})
    assert admit(state, "video", {"cpu": 1 << 70}, {"cpu": 1}).admitted
    assert not admit(state, "video", {GPU: 1}).admitted
    assert admit(state, "video", {GPU: 0, MEM: 5}).admitted  # asking for none of what is full


def test_a_queue_over_its_max_still_runs_what_needs_none_of_it() -> None:
    state = books(Queue(name="a", max={GPU: 2, MEM: 8}), used={"a": {GPU: 5}})  # its max was lowered
    assert admit(state, "a", {MEM: 8}).admitted
    assert admit(state, "a", {GPU: 1}).shorts[0].over == 1


def test_several_resources_are_all_told() -> None:
    state = books(Queue(name="a", max={GPU: 2, MEM: 8, CACHE: 1 << 40}), used={"a": {GPU: 2, MEM: 8}})
    verdict = admit(state, "a", {GPU: 1, MEM: 1, CACHE: 1 << 40})
    assert [(s.resource, s.over) for s in verdict.shorts] == [(GPU, 1), (MEM, 1)]
    assert verdict.sentence().endswith("(and 1 more)")
    hopeless = admit(state, "a", {GPU: 1, CACHE: 2 << 40}).sentence()
    assert hopeless.startswith(f'queue "a" can never give 2Ti {CACHE}: its max of {CACHE} is 1Ti')


def test_a_borrow_limit_is_a_ceiling() -> None:
    state = books(Queue(name="a", min={GPU: 4}, borrow={GPU: 2}))
    assert admit(state, "a", {GPU: 6}).borrowed == {GPU: 2}
    assert not admit(state, "a", {GPU: 7}).admitted


LENDERS = (
    Queue(name="keeper", min={GPU: 6}, max={GPU: 10}, lend={GPU: 2}),  # keeps 4
    Queue(name="taker", max={GPU: 10}),
)
ROOT = Queue(name="root", min={GPU: 10}, max={GPU: 10})


def test_what_is_kept_from_lending_stays_free() -> None:
    state = books(*LENDERS, root=ROOT)
    assert admit(state, "taker", {GPU: 6}).admitted
    refused = admit(state, "taker", {GPU: 7})
    assert refused.sentence() == (
        'queue "root" has 10 nvidia.com/gpu, 0 in use and 4 kept by queues that do not lend it, and 7 are asked: 1 too many; '
        "wait until 1 are freed below it, ask for at most 6, or let those queues lend more"
    )
    state.book("taker", {GPU: 6})
    assert admit(state, "keeper", {GPU: 4}).admitted  # its own kept part is there
    assert not admit(state, "keeper", {GPU: 5}).admitted
    state.book("keeper", {GPU: 3})
    assert admit(state, "keeper", {GPU: 1}).admitted
    assert not admit(state, "taker", {GPU: 1}).admitted


def test_kept_from_what_the_cluster_has() -> None:
    state = books(*LENDERS)
    assert admit(state, "taker", {GPU: 10}).admitted  # no total: nothing to keep it from
    assert admit(state, "taker", {GPU: 4}, {GPU: 8}).admitted
    assert admit(state, "taker", {GPU: 5}, {GPU: 8}).shorts[0].rule == "kept"
    state.book("keeper", {GPU: 6})
    assert admit(state, "taker", {GPU: 3}, {GPU: 8}).sentence() == (
        'queue "(cluster)" has 6 of 8 nvidia.com/gpu in use and 3 are asked: 1 too many; wait until 1 are freed below it, '
        "ask for at most 2, or add nodes with 1 more"
    )


def test_who_keeps_more_than_there_is_may_still_use_its_own() -> None:
    state = books(Queue(name="a", min={GPU: 8}, lends=False), Queue(name="b", min={GPU: 8}, lends=False))
    assert admit(state, "a", {GPU: 8}, {GPU: 10}).admitted
    assert not admit(state, "a", {GPU: 9}, {GPU: 10}).admitted


def test_what_must_not_be_preempted_fits_into_the_mins() -> None:
    state = books(*TEAMS)
    assert admit(state, "video", {GPU: 6}, preemptible=False).admitted
    refused = admit(state, "video", {GPU: 7}, preemptible=False)
    assert refused.sentence().startswith('queue "video" can never give 7 nvidia.com/gpu: its min of nvidia.com/gpu is 6')
    state.book("text", {GPU: 2}, preemptible=False)
    state.book("video", {GPU: 6})  # preemptible ones do not count
    assert admit(state, "video", {GPU: 6}, preemptible=False).admitted
    state = books(*TEAMS)
    state.book("video", {GPU: 1}, preemptible=False)
    assert admit(state, "video", {GPU: 6}, preemptible=False).sentence() == (
        'queue "video" has 1 of 6 nvidia.com/gpu of what is not preemptible in use and 6 are asked: 1 too many; '
        "wait until 1 are freed below it, ask for at most 5, or mark the job preemptible"
    )


def test_a_closed_queue_says_why() -> None:
    state = books(Queue(name="a", min={GPU: 9}, max={GPU: 8}))
    assert (
        admit(state, "a", {})
        .sentence()
        .startswith('queue "a" admits nothing until this is mended: queue "a": min.nvidia.com/gpu')
    )


def test_number_of_jobs() -> None:
    state = books(Queue(name="a", max={JOBS: 2}), used={"a": {JOBS: 1}})
    assert admit(state, "a", {GPU: 5}, jobs=1).admitted
    state.book("a", {JOBS: 1})
    assert admit(state, "a", {GPU: 5}, jobs=1).shorts[0].resource == JOBS
    assert admit(state, "a", {GPU: 5, JOBS: 7}).admitted  # a member more of a job that runs; requests cannot name jobs


def test_no_queue_and_nonsense() -> None:
    state = books(*TEAMS)
    assert admit(state, "", {GPU: 1 << 80}).sentence() == "no quota governs it"
    with pytest.raises(ValueError, match="below 0"):
        admit(state, "video", {GPU: -1})
    with pytest.raises(KeyError):
        admit(state, "nobody", {})


def test_borrowed_now() -> None:
    state = books(*TEAMS, used={"video": {GPU: 9, "cpu": 5}, "text": {GPU: 1}})
    assert borrowed(state) == {"algorithm": {GPU: 2}, "video": {GPU: 3}}


def _reference(tree: QuotaTree, used: dict[str, int], leaf: str, asked: int, total: int) -> bool:
    """Admission by its definition: the tree after the job, each level within its bound; kept parts count where the job adds."""

    def held(name: str, extra: int) -> tuple[int, int]:
        below = [held(c, extra) for c in tree.children[name]]
        plain = sum(u for u, _ in below) if below else used.get(name, 0) + (extra if name == leaf else 0)
        taken = sum(h for _, h in below) if below else plain
        bounds[name] = (plain, taken)
        return plain, max(taken, tree.keeps[name].get(GPU, 0))

    bounds: dict[str, tuple[int, int]] = {}
    held(tree.root, 0)
    before = dict(bounds)
    held(tree.root, asked)
    for name in tree.path(leaf):
        limits = [n for n in (tree.ceilings[name].get(GPU), total if name == tree.root else None) if n is not None]
        plain, taken = bounds[name]
        if any(taken > n and taken > before[name][1] for n in limits) or (
            name in tree.ceilings and plain > tree.ceilings[name].get(GPU, plain)
        ):
            return False
    return True


@st.composite
def states(draw: st.DrawFn) -> tuple[QuotaTree, dict[str, int]]:
    queues: list[Queue] = []
    for i in range(draw(st.integers(1, 7))):
        least = draw(st.integers(0, 9))
        most = draw(st.none() | st.integers(least, 20))
        lend = draw(st.none() | st.integers(0, least))
        parent = draw(st.sampled_from(["", *(q.name for q in queues)]))
        queues.append(
            Queue(
                name=f"q{i}",
                parent=parent,
                min={GPU: least},
                max={} if most is None else {GPU: most},
                lend={} if lend is None else {GPU: lend},
            )
        )
    tree = build(queues, Findings())
    leaves = [n for n in tree.queues if tree.is_leaf(n) and n != tree.root]
    return tree, {leaf: draw(st.integers(0, 12)) for leaf in leaves}


@given(states(), st.integers(1, 12), st.integers(0, 40), st.data())
def test_as_defined(state: tuple[QuotaTree, dict[str, int]], asked: int, total: int, data: st.DataObject) -> None:
    tree, used = state
    leaf = data.draw(st.sampled_from(sorted(used)))
    current = Books(tree)
    for name, amount in used.items():
        current.book(name, {GPU: amount})
    verdict = admit(current, leaf, {GPU: asked}, {GPU: total})
    assert verdict.admitted == _reference(tree, used, leaf, asked, total)
    for short in verdict.shorts:  # the sentence is true: with so much less it would pass this bound
        assert short.over > 0
        assert admit(current, leaf, {GPU: asked - short.over}, {GPU: total}).admitted or len(verdict.shorts) > 1
