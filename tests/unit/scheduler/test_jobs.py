"""The simulation of gangs and datasets: bytes are conserved, runs repeat, lies strand nobody, dumps replay."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.cli.sim.command import sim
from forebay.cli.why import why as why_command
from forebay.scheduler import snapshot
from forebay.scheduler.arrays.types import Ints
from forebay.scheduler.decision import Ask, Decision
from forebay.scheduler.jobs import measure
from forebay.scheduler.jobs.baselines import Fifo
from forebay.scheduler.jobs.caches import Caches
from forebay.scheduler.jobs.fleet import Fleet
from forebay.scheduler.jobs.simulation import CARD, Broken, Outcome, Simulation, ask_of, state_of
from forebay.scheduler.jobs.workload import Cluster, Job, Shape, Workload, draw, read_trace
from forebay.scheduler.locality.warmth import Warmth
from forebay.scheduler.plan import Placement, Plan
from forebay.scheduler.why import sentences, why

TRACE = Path(__file__).parents[2] / "data/philly_300.csv"
GB = 10**9


def small(seed: int = 1, *, jobs: int = 60, nodes: int = 6, load: float = 0.9, sigma: float = 1.0) -> Workload:
    shape = Shape(datasets=20, sigma=sigma, load=load, jobs=jobs)
    return draw(read_trace(TRACE), Cluster(nodes=nodes), shape, seed)


def bench(sizes: list[int], jobs: list[Job], *, cache: int = 1000, nodes: int = 2) -> Workload:
    """Sizes in GB; 8 cards of 1 GB/s, NICs of 10 GB/s, a store of 5 GB/s."""
    cluster = Cluster(nodes, 8, cache * GB, 10 * GB, 5 * GB, GB)
    return Workload(0, cluster, Shape(datasets=len(sizes), epochs=3), [size * GB for size in sizes], jobs)


class Given:
    """Starts the first jobs on the nodes it is told, pod by pod, in their order."""

    def __init__(self, *places: list[int]) -> None:
        self.places, self.asked, self.used = list(places), list[Ask](), dict[int, int]()

    def submit(self, ask: Ask) -> None:
        self.asked.append(ask)

    def decide(self, now: float, warmth: Warmth) -> Decision:
        del now, warmth
        plans = list[Plan]()
        while self.asked and self.places:
            placements = []
            for member, row in zip(self.asked.pop(0).gang.members, self.places.pop(0), strict=True):
                card = self.used.get(row, 0)
                self.used[row] = card + 1
                placements.append(Placement(member.pod, f"node-{row}", (card,)))
            plans.append(Plan(placements[0].pod.rsplit("-", 1)[0], tuple(placements)))
        return Decision(tuple(plans))

    def finished(self, plan: Plan) -> None:
        pass


def simulate(workload: Workload, *places: list[int]) -> tuple[Outcome, Simulation]:
    one = Simulation(workload, Given(*places), state_of(workload.cluster), tick=1.0, tail=1.0)
    return one.run(), one


def test_one_pod_reads_a_cold_dataset_once_from_the_store() -> None:
    out, one = simulate(bench([100], [Job(0, 1, 0)]), [0])
    assert (out.moved.store / GB, out.moved.peer, out.moved.local / GB) == pytest.approx((100, 0, 200))
    assert out.end[0] == pytest.approx(300)  # 1 GB/s: the store is faster
    assert out.batch[0] == pytest.approx(0.064)
    assert one.caches.held[0, 0] == pytest.approx(100 * GB)


def test_eight_pods_are_held_back_by_the_store_in_the_first_epoch_only() -> None:
    out, _ = simulate(bench([400], [Job(0, 8, 0)]), [0] * 8)
    assert out.end[0] == pytest.approx(400 / 5 + 2 * 400 / 8, abs=1.5)  # the tick of 1 s in which an epoch ends
    assert out.moved.store / GB == pytest.approx(400)


def test_pods_of_a_gang_on_two_nodes_fetch_from_each_other() -> None:
    out, _ = simulate(bench([100], [Job(0, 2, 0)]), [0, 1])
    assert out.moved.store / GB == pytest.approx(100, rel=0.02)
    # of the half that a pod reads in an epoch its node holds 1/2, then 3/4: 2 x 50 x (1/2 + 1/4) come from the other
    assert out.moved.peer / GB == pytest.approx(75, rel=0.05)
    assert out.moved.local / GB == pytest.approx(125, rel=0.05)


def test_two_jobs_on_one_node_share_what_either_fetches() -> None:
    out, _ = simulate(bench([100], [Job(0, 1, 0), Job(0, 1, 0)]), [0], [0])
    # both read all of it in random order at one pace: a byte is fetched by whoever comes first
    assert out.moved.store / GB == pytest.approx(100, rel=0.03)
    assert out.moved.local / GB == pytest.approx(500, rel=0.01)


def test_a_dataset_larger_than_the_cache_is_never_all_near() -> None:
    out, one = simulate(bench([400], [Job(0, 1, 0)], cache=100), [0])
    assert one.caches.held[0].sum() <= 100 * GB * (1 + 1e-9)
    # what an epoch finds of the last one is pushed out by what it fetches: the ratio s of hits follows ds = -s (1 - s) dr / 100
    epoch = 100 * (math.log(1 + 1 / 3) - math.log(1 + math.exp(-4) / 3))
    assert out.moved.local / GB == pytest.approx(2 * epoch, rel=0.03)


def test_the_least_recently_read_goes_first() -> None:
    caches = Caches(1, np.array([60, 60, 60]), 120)
    node = np.zeros(1, np.int64)
    for at in range(3):
        which = np.array([at])
        caches.touch(node, which, float(at))
        caches.add(node, which, np.array([60.0]), np.array([60.0]))
        gone = caches.trim()
    assert gone == [(0, 0, 1.0)]
    assert caches.held.tolist() == [[0, 60, 60]]
    assert caches.spread.tolist() == [0, 60, 60]  # nobody else held what went


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_bytes_are_conserved(data: st.DataObject) -> None:
    nodes = data.draw(st.integers(1, 4))
    sizes = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=3))
    jobs, places, room = list[Job](), list[list[int]](), [8] * nodes
    for _ in range(data.draw(st.integers(1, 5))):
        where = [row for row in data.draw(st.lists(st.integers(0, nodes - 1), min_size=1, max_size=6)) if room[row]]
        kept = list[int]()
        for row in where:
            if room[row]:
                room[row] -= 1
                kept.append(row)
        if kept:
            jobs.append(Job(0.0, len(kept), data.draw(st.integers(0, len(sizes) - 1))))
            places.append(kept)
    if not jobs:
        return
    workload = bench(sizes, jobs, cache=data.draw(st.sampled_from([50, 200, 1000])), nodes=nodes)
    out, one = simulate(workload, *places)
    moved = out.moved
    assert moved.local + moved.peer + moved.store == pytest.approx(out.read, rel=1e-6)
    assert min(moved.local, moved.peer, moved.store) >= 0
    held = one.caches.held
    assert (held >= 0).all()
    assert (held.sum(axis=1) <= workload.cluster.cache_bytes * (1 + 1e-9)).all()
    assert (held <= one.caches.size * (1 + 1e-9)).all()
    assert (one.caches.spread <= held.sum(axis=0) + 1).all()
    assert (one.caches.spread >= held.max(axis=0) - 1).all()
    for index, job in enumerate(jobs):  # nobody is quicker than its cards
        assert out.end[index] >= 3 * sizes[job.dataset] / job.pods * (1 - 1e-6)
    # every byte comes from the store once; a few are said to come from a node of the gang that reads them only later
    assert moved.store >= sum(sizes[at] * GB for at in {job.dataset for job in jobs}) * 0.9


def test_links_carry_no_more_than_they_can() -> None:
    workload = bench([300], [Job(0, 8, 0)] * 3, nodes=4)
    caches = Caches(4, np.array(workload.sizes), 10**15)
    caches.held[0, 0] = caches.copies[0] = caches.spread[0] = 300 * GB
    fleet = Fleet(workload, caches)
    for job in range(3):
        fleet.start(job, {job + 1: 8})
    fleet.tick(0.0, 1.0)
    assert fleet.moved.peer == pytest.approx(10 * GB)  # three nodes of 8 GB/s from one NIC
    assert fleet.moved.store == 0


# whole runs


def test_a_run_repeats() -> None:
    first, second = (measure.run(small(), "forebay")[0] for _ in range(2))
    assert msgspec.structs.replace(first, seconds=0.0) == msgspec.structs.replace(second, seconds=0.0)


@pytest.mark.parametrize("policy", ["fluid", "fluid-spread", "affinity"])
def test_ours_reads_nearer_and_starts_sooner(policy: str) -> None:
    workload = draw(read_trace(TRACE), Cluster(nodes=12), Shape(datasets=40, jobs=200), 5)
    ours, _ = measure.run(workload, "forebay")
    theirs, _ = measure.run(workload, policy)
    assert ours.local_bytes > theirs.local_bytes
    assert ours.first_batch_seconds.mean < theirs.first_batch_seconds.mean


@pytest.mark.parametrize("name", ["nothing", "everything", "the opposite", "vanish"])
def test_lies_cost_time_and_strand_nobody(name: str) -> None:
    workload = small()

    def lie(held: Ints, now: float) -> Ints:
        sizes = np.array(workload.sizes)
        return {
            "nothing": np.zeros_like(held),
            "everything": np.tile(sizes, (len(held), 1)),
            "the opposite": sizes - held,
            "vanish": held if now < 300 else np.zeros_like(held),
        }[name]

    state = state_of(workload.cluster)
    one = Simulation(workload, measure.make("forebay", state, workload.cluster.cache_bytes), state, lie=lie)
    out = one.run()  # its own books would raise for a partial gang or a card given twice
    assert not np.isnan(out.end).any()
    assert (state.card_free == state.card_milli).all()
    honest = measure.run(workload, "forebay")[1]
    arrivals = np.array([job.arrival for job in workload.jobs])
    assert (out.batch - arrivals).mean() < (honest.batch - arrivals).mean() + 600


def test_a_policy_that_breaks_a_gang_is_caught() -> None:
    workload = bench([10], [Job(0, 2, 0)])
    with pytest.raises(ValueError, match="zip"):
        simulate(workload, [0])

    class Half(Given):
        def decide(self, now: float, warmth: Warmth) -> Decision:
            return Decision((Plan("job-00000", (Placement("job-00000-0", "node-0", (0,)),)),))

    with pytest.raises(Broken, match="1 of 2 pods"):
        Simulation(workload, Half(), state_of(workload.cluster)).run()
    with pytest.raises(Broken, match="not one free card"):
        simulate(bench([10], [Job(0, 9, 0)]), [0] * 9)


@pytest.mark.parametrize(
    ("policy", "pods", "node"),
    [
        ("fluid", 1, ["node-2"]),  # holds it: 2 x 100 + packing 0, against 2 x 41 + 75
        ("fluid-spread", 1, ["node-2"]),
        ("affinity", 1, ["node-2"]),
        ("fluid", 9, ["node-2"] * 8 + ["node-0"]),  # then the fullest
        ("fluid-spread", 9, ["node-2"] * 8 + ["node-1"]),  # or the emptiest
        ("affinity", 9, ["node-2"] * 8 + ["node-0"]),
    ],
)
def test_baselines_choose_as_they_are_described(policy: str, pods: int, node: list[str]) -> None:
    workload = bench([100], [Job(0, pods, 0)], nodes=3)
    state = state_of(workload.cluster)
    for card in range(6):
        state.place(0, CARD, (card,))
    warmth = Warmth(state.names)
    warmth.resize("sim/data-000", 100 * GB)
    warmth.set_all(np.array([[0], [0], [1 * GB]]), 0.0)  # 1 % is as good as all: labels know no shares
    one = Fifo(state, policy)
    one.submit(ask_of(workload, 0))
    (plan,) = one.decide(0.0, warmth).plans
    assert [place.node for place in plan.placements] == node


def test_fifo_lets_nobody_pass() -> None:
    workload = bench([10, 10], [Job(0, 12, 0), Job(0, 8, 1), Job(0, 1, 1)])
    state = state_of(workload.cluster)
    out = Simulation(workload, Fifo(state, "fluid"), state, tick=1.0).run()
    assert out.start[0] < out.start[1] == out.start[2]
    state = state_of(workload.cluster)
    out = Simulation(workload, Fifo(state, "affinity", passing=True), state, tick=1.0).run()
    assert out.start[0] == out.start[2] < out.start[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "arrival_s and scale_factor"),
        ("arrival_s,scale_factor\n1,x\n", ":2: arrival_s '1', scale_factor 'x'"),
        ("arrival_s,scale_factor\n1,0\n", "sizes from 1"),
        ("arrival_s,scale_factor\n-1,1\n", "times from 0"),
        ("arrival_s,scale_factor\nnan,1\n", "times from 0"),
        ("arrival_s,scale_factor\n", "has no jobs"),
    ],
)
def test_traces_that_are_wrong(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_trace(path)


def test_workloads_that_cannot_be() -> None:
    trace = read_trace(TRACE)
    with pytest.raises(ValueError, match="asks for 16 cards, the cluster has 8"):
        draw(trace, Cluster(nodes=1), Shape(jobs=0), 1)
    with pytest.raises(ValueError, match="load is 0"):
        Shape(load=0)
    with pytest.raises(ValueError, match="no time to scale"):
        draw([trace[0], trace[0]], Cluster(), Shape(), 1)
    with pytest.raises(ValueError, match="nodes is 0"):
        Cluster(nodes=0)


def test_a_workload_has_its_load() -> None:
    workload = small(load=0.5, jobs=0)
    asked = 3 * sum(workload.sizes[job.dataset] for job in workload.jobs) / 1e9
    assert asked / (6 * 8 * workload.jobs[-1].arrival) == pytest.approx(0.5)


# dump, replay, why


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dump") / "passes.jsonl.gz"
    with snapshot.Writer(path, "a test") as dump:
        measure.run(small(), "forebay", dump=dump, every=40.0)
    return path


def test_dumped_passes_decide_the_same(dumped: Path) -> None:
    records = list(snapshot.read(dumped))
    assert len(records) > 10
    assert sum(len(record.decision.plans) for record in records) > 3
    assert all(snapshot.again(record) for record in records)
    other = msgspec.structs.replace(records[0].snapshot, now=records[0].snapshot.now + 1e6)
    assert not all(snapshot.again(msgspec.structs.replace(record, snapshot=other)) for record in records)


def test_why_of_every_gang(dumped: Path) -> None:
    seen = set[str]()
    for record in snapshot.read(dumped):
        shot = record.snapshot
        for waiter in shot.waiting:
            answer = why(shot, waiter.ask.gang.name)
            assert answer.state == "waiting"
            assert answer.reason
            assert answer.nearest is None or sum(answer.nearest.nodes.values()) == answer.pods
            assert answer.nearest is not None or answer.free is not None
            assert len(sentences(answer)) >= 3
            seen.add(" ".join(answer.reason.split()[:4]))
        for runner in shot.running[:1]:
            assert why(shot, runner.plan.gang).state == "running"
    assert len(seen) > 1  # not one sentence for all
    assert why(shot, "nobody").state == "unknown"


def test_commands(dumped: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(sim, ["replay", str(dumped), "-o", "json"])
    assert (done.exit_code, json.loads(done.stdout)["different_at"]) == (0, [])
    waiting = next(one.ask.gang.name for record in snapshot.read(dumped) for one in record.snapshot.waiting)
    done = run(why_command, [waiting, "--dump", str(dumped), "-o", "json"])
    assert (done.exit_code, json.loads(done.stdout)["state"]) == (0, "waiting")
    assert run(why_command, ["nobody", "--dump", str(dumped)]).exit_code == 1
    report = tmp_path / "report.html"
    options = ["--jobs", "40", "--nodes", "6", "--datasets", "10", "--policy", "forebay,fluid", "--seeds", "3,4"]
    done = run(sim, ["jobs", "--trace", str(TRACE), *options, "--report", str(report), "-o", "json"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["policy"], line["seed"]) for line in lines] == [("forebay", 3), ("fluid", 3), ("forebay", 4), ("fluid", 4)]
    page = report.read_text()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http-equiv", "")
    assert "src=" not in page


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--policy", "best"], 2, 'no policy "best"'),
        (["--seeds", "x"], 2, "no list of seeds"),
        (["--dump", "x", "--seeds", "1,2"], 2, "give one seed"),
        (["--load", "0"], 1, "load is 0"),
        (["--nodes", "1"], 1, "asks for"),
    ],
)
def test_commands_that_are_wrong(options: list[str], code: int, words: str) -> None:
    done = CliRunner().invoke(sim, ["jobs", "--trace", str(TRACE), "--jobs", "0", *options])
    assert done.exit_code == code
    assert words in done.output or words in str(done.exception)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", None), (b"{}\n", "no line of a dump"), (b'{"version":9,"about":""}\n', "version 9"), (b"\xff", "no line of a dump")],
)
def test_files_that_are_no_dump(tmp_path: Path, content: bytes, words: str | None) -> None:
    path = tmp_path / "dump.jsonl"
    path.write_bytes(content)
    if words is None:
        assert list(snapshot.read(path)) == []
        return
    with pytest.raises(snapshot.DumpError, match=words):
        list(snapshot.read(path))


def test_a_dump_that_is_cut(dumped: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(dumped.read_bytes()[:-20])
    with pytest.raises(snapshot.DumpError, match="is cut"):
        list(snapshot.read(path))


def test_intervals() -> None:
    assert measure.Interval.of([2.0]) == measure.Interval(2, 2, 2)
    one = measure.Interval.of([1.0, 2.0, 3.0])
    assert (one.mean, one.high - one.mean) == pytest.approx((2, 4.303 / 3**0.5))
