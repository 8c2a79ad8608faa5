"""The tree: what a mistake closes, what is only warned of, and where a pod is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.scheduler.quota.amounts import CPU, parse_amount, render_amount, show
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.tree import WHOLE_CLUSTER, Queue, QuotaTree

GPU = "nvidia.com/gpu"


def built(*queues: Queue, root: Queue | None = None, default: str = "") -> tuple[QuotaTree, list[str]]:
    findings = Findings()
    tree = build(queues, findings, root=root, default=default)
    return tree, [str(p).removeprefix("cluster: ") for p in findings.problems]


A = Queue(name="a", min={GPU: 4}, max={GPU: 8}, namespaces=("team-a",), source="ElasticQuota team-a/a")


@pytest.mark.parametrize(
    ("queues", "closed", "sentence"),
    [
        (
            [Queue(name="a", min={GPU: 9}, max={GPU: 8}, source="EQ x/a")],
            {"a"},
            'error: EQ x/a queue "a": min.nvidia.com/gpu "9" is over max.nvidia.com/gpu, 8; lower min to 8 or raise max to 9',
        ),
        (
            [A, Queue(name="a", namespaces=("other",), source="ElasticQuota other/a")],
            {"a"},
            'error: ElasticQuota other/a queue "a": name "a" stands twice in the tree; '
            'rename one of the two (the other: ElasticQuota team-a/a); until then nothing is admitted to "a"',
        ),
        (
            [A, Queue(name="b", parent="elsewhere")],
            {"b"},
            'error: queue "b": parent "elsewhere" is no queue of this tree; create the parent, or name one that exists',
        ),
        (
            [Queue(name="a", parent="a")],
            {"a"},
            'error: queue "a": parent "a" makes the queue its own ancestor; name another parent, or none',
        ),
        (
            [Queue(name="a", parent="c"), Queue(name="b", parent="a"), Queue(name="c", parent="b"), Queue(name="d")],
            {"a", "b", "c"},
            'error: queue "b": parent "a" makes the queue its own ancestor (a -> c -> b -> a); '
            "give one of them a parent outside the ring",
        ),
        (
            [Queue(name="a", max={GPU: -1})],
            {"a"},
            'error: queue "a": max.nvidia.com/gpu -1 is below 0; write 0 or more',
        ),
        (
            [Queue(name="a", max={GPU: 1 << 80})],
            {"a"},
            f'error: queue "a": max.nvidia.com/gpu {1 << 80} is out of range; write less than 8Ei',
        ),
    ],
)
def test_a_mistake_closes_what_it_concerns(queues: list[Queue], closed: set[str], sentence: str) -> None:
    tree, said = built(*queues)
    assert set(tree.closed) == closed
    assert sentence in said
    assert all(tree.closed_at(name) for name in closed)
    assert all(min(named.values(), default=0) >= 0 for q in tree.queues.values() for named in (q.min, q.max))


def test_below_a_closed_queue_nothing_is_admitted_either() -> None:
    tree, _ = built(Queue(name="a", min={GPU: 9}, max={GPU: 8}), Queue(name="b", parent="a"), Queue(name="c"))
    assert "is over max" in tree.closed_at("b")
    assert not tree.closed_at("c")


def test_a_namespace_on_two_leaves_is_refused_and_its_leaves_work_on() -> None:
    tree, said = built(A, Queue(name="b", namespaces=("team-a", "team-b")))
    assert tree.home("team-a").refusal == (
        'queue "b": namespaces "team-a" is listed by queue "a" as well, and a namespace has one leaf; '
        "take it out of one of the two; until then its new pods wait"
    )
    assert tree.home("team-b").queue == "b"
    assert tree.home("team-a", label="a").queue == "a"  # who says where it belongs is served
    assert len(said) == 1


def test_a_namespace_on_a_parent() -> None:
    tree, said = built(Queue(name="a", namespaces=("x",)), Queue(name="b", parent="a"))
    assert said == [
        'error: queue "a": namespaces "x" is listed by a queue that has children, and only leaves hold pods; '
        "move it to a leaf below"
    ]
    assert "only leaves" in tree.home("x").refusal


@pytest.mark.parametrize(
    ("queues", "root", "warnings"),
    [
        (
            [Queue(name="p", min={GPU: 4}), Queue(name="x", parent="p", min={GPU: 3}), Queue(name="y", parent="p", min={GPU: 3})],
            None,
            ['warning: queue "p": min.nvidia.com/gpu "4" is less than the sum of its children\'s, 6: they are scaled down when '
             "all want theirs; raise it to 6, or lower theirs"],
        ),
        (
            [Queue(name="p", max={GPU: 4}), Queue(name="m", parent="p"), Queue(name="x", parent="m", min={GPU: 5}, max={GPU: 9})],
            None,
            ['warning: queue "x": max.nvidia.com/gpu "9" is over the max of "p" above it, 4, which holds; '
             "lower it, or raise the other",
             'warning: queue "x": min.nvidia.com/gpu "5" is over the max of "p" above it, 4, and can never be given; '
             "lower it, or raise the other"],
        ),
        (
            [],
            Queue(name="root", min={GPU: 4}, max={GPU: 8}),
            ['warning: queue "root": min.nvidia.com/gpu "4" differs from max.nvidia.com/gpu, 8: the root\'s max counts; '
             "make them equal, as the root of a tree has them"],
        ),
        (
            [Queue(name="a", min={GPU: 4}, lend={GPU: 5})],
            None,
            ['warning: queue "a": lend.nvidia.com/gpu "5" is more than min.nvidia.com/gpu, 4: all of the min may be lent; '
             "lower it, or leave it out"],
        ),
    ],
)  # fmt: skip
def test_accepted_with_a_warning(queues: list[Queue], root: Queue | None, warnings: list[str]) -> None:
    tree, said = built(*queues, root=root)
    assert said == warnings
    assert not tree.closed


def test_where_a_pod_is_counted() -> None:
    tree, said = built(
        A, Queue(name="p", parent_only=True), Queue(name="b", parent="p", namespaces=("b",)), Queue(name="d"), default="d"
    )
    assert not said
    assert tree.home("team-a").queue == "a"
    assert tree.home("team-a", "b").queue == "b"  # the label wins
    assert tree.home("team-a", "nowhere").queue == "a"  # one that names nothing does not
    assert tree.home("somewhere").queue == "d"
    assert tree.home("b", "p").refusal == 'the pod names queue "p", which is a parent and holds no pods; name a leaf, such as "b"'
    assert tree.title("b") == f"{WHOLE_CLUSTER}/p/b"


def test_a_queue_without_a_name_takes_nobody_in() -> None:
    tree, said = built(Queue(name="", max={GPU: 1}, namespaces=("n",)), A)
    assert said == ['error: queue "": name is missing; give the queue a name of its own in the tree']
    assert tree.home("team-a", label="").queue == "a"
    assert tree.closed_at("")


def test_no_default_no_quota() -> None:
    tree, said = built(A, default="b")
    assert said == ['error: the default queue: name "b" is no leaf of the tree; name one of the leaves']
    assert tree.home("elsewhere").queue == ""


def test_floors_ceilings_keeps() -> None:
    tree, _ = built(
        Queue(name="p", max={GPU: 20}),
        Queue(name="x", parent="p", min={GPU: 8, "cpu": 1}, borrow={GPU: 2}, lend={GPU: 5}),
        Queue(name="y", parent="p", min={GPU: 4}, max={GPU: 6}, borrow={GPU: 9}, lends=False),
    )
    assert tree.floors["p"] == {GPU: 12, "cpu": 1}
    assert tree.ceilings["x"] == {GPU: 10}
    assert tree.ceilings["y"] == {GPU: 6}
    assert (tree.keeps["x"], tree.keeps["y"], tree.keeps["p"]) == ({GPU: 3}, {GPU: 4}, {})


def test_min_runtime_is_the_nearest() -> None:
    tree, _ = built(Queue(name="p", min_runtime=600), Queue(name="x", parent="p", min_runtime=60), Queue(name="y", parent="p"))
    assert [tree.min_runtime(q) for q in ("x", "y", "p")] == [60, 600, 600]


def test_a_chain_as_deep_as_anybody_likes() -> None:
    chain = [Queue(name=f"q{i}", parent=f"q{i - 1}" if i else "", min={GPU: 1}, max={GPU: 9}) for i in range(3000)]
    tree, said = built(*reversed(chain))
    assert not said
    assert len(tree.path("q2999")) == 3001


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
ANY_AMOUNTS = st.dictionaries(st.sampled_from([GPU, CPU]), st.integers(-2, 9) | st.integers(-(1 << 90), 1 << 90), max_size=2)
ANY_QUEUE = st.builds(
    Queue,
    name=NAMES,
    parent=NAMES | st.just(""),
    min=ANY_AMOUNTS,
    max=ANY_AMOUNTS,
    weight=ANY_AMOUNTS,
    borrow=ANY_AMOUNTS,
    lend=ANY_AMOUNTS,
    lends=st.booleans(),
    min_runtime=st.floats(-1, 10),
    namespaces=st.lists(st.sampled_from(["n1", "n2"]), max_size=2).map(tuple),
)


@given(st.lists(ANY_QUEUE, max_size=8))
def test_any_input_gives_a_sound_tree(queues: list[Queue]) -> None:
    findings = Findings()
    tree = build(queues, findings)
    assert {q.name for q in queues} | {WHOLE_CLUSTER} == set(tree.queues)  # nothing is lost, so nothing runs ungoverned
    seen: set[str] = set()
    for name in tree.queues:
        assert tree.path(name)[-1] == tree.root
        assert name == tree.root or tree.queues[name].parent in seen
        seen.add(name)
        assert all(0 <= tree.floors[name][r] <= tree.ceilings[name].get(r, 1 << 99) for r in tree.floors[name])
        assert all(0 <= n <= tree.floors[name][r] for r, n in tree.keeps[name].items())
    for queue in queues:  # who has a contradiction in itself is closed
        if any(n < 0 for n in queue.max.values()) or any(queue.max.get(r, n) < n for r, n in queue.min.items()):
            assert queue.name in tree.closed
    said = {p.severity for p in findings.problems}
    assert ("error" in said) == bool(tree.closed or tree.refused)
    assert all(p.object and p.message and p.remedy for p in findings.problems)


@pytest.mark.parametrize(
    ("resource", "quantity", "amount"),
    [
        ("cpu", "4", 4000),
        ("cpu", 4, 4000),
        ("cpu", "500m", 500),
        ("cpu", "1500u", 2),  # rounded up
        ("cpu", 0.5, 500),
        ("cpu", "1e3", 1_000_000),
        ("cpu", "2k", 2_000_000),
        ("cpu", "1Ei", 1000 << 60),  # nothing overflows
        ("memory", "1Gi", 1 << 30),
        (GPU, "8", 8),
        (GPU, "100m", 1),
        ("aliyun.com/gpu-mem", 48, 48),
    ],
)
def test_amounts(resource: str, quantity: object, amount: int) -> None:
    assert parse_amount(resource, quantity) == amount


@given(st.sampled_from(["cpu", "memory", GPU, "forebay.io/cache-bytes"]), st.integers(0, 1 << 62))
def test_amounts_are_written_as_they_are_read(resource: str, amount: int) -> None:
    assert parse_amount(resource, render_amount(resource, amount)) == amount


@pytest.mark.parametrize("bad", [True, None, [], "-1", "-0.5", -1, "lots", "9Ei", float("nan"), float("inf")])
def test_bad_amounts_have_a_remedy(bad: object) -> None:
    with pytest.raises(ValueError, match=r"is|has") as caught:
        parse_amount("cpu", bad)
    assert caught.value.remedy  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("resource", "amount", "text"),
    [
        ("cpu", 1500, "1500m"),
        ("cpu", 2000, "2"),
        ("memory", 64 << 30, "64Gi"),
        ("memory", 12345678901, "11.50GiB"),
        (GPU, 8, "8"),
    ],
)
def test_shown(resource: str, amount: int, text: str) -> None:
    assert show(resource, amount) == text
