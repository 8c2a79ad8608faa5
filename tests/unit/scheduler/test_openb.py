"""Reading traces, replaying them, and `forebay sim openb`: a small cluster made here, and files that are wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from forebay.cli.sim.command import sim
from forebay.scheduler import openb, replay
from forebay.scheduler.arrays.state import State
from forebay.scheduler.policies import POLICIES

NODES = """sn,cpu_milli,memory_mib,gpu,model
a,32000,65536,4,X
b,32000,65536,2,Y
c,64000,65536,0,
"""
PODS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos
p0,4000,1024,1,500,,LS
p1,4000,1024,1,1000,X|Y,LS
p2,8000,1024,2,1000,Y,LS
p3,2000,1024,0,0,,BE
p4,1000,1024,1,700,Z,LS
"""


def order(**changes: Any) -> dict[str, Any]:
    return {
        "seed": 7,
        "originals": 5,
        "demand_milli_gpu": 0,
        "rows": [2, 0, 1, 3, 4, 0, 0, 1, 1, 1],
        "node_rank": [1, 0, 2],
        **changes,
    }


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in ("nodes", "pods", "orders")}
    paths["nodes"].write_text(NODES)
    paths["pods"].write_text(PODS)
    paths["orders"].write_bytes(gzip.compress((json.dumps(order()) + "\n" + json.dumps(order(seed=8)) + "\n").encode()))
    return paths


def test_reading(files: dict[str, Path]) -> None:
    nodes, pods = openb.read_nodes(files["nodes"]), openb.read_pods(files["pods"])
    assert [(node.name, len(node.cards), node.resources["cpu_milli"]) for node in nodes] == [
        ("a", 4, 32000),
        ("b", 2, 32000),
        ("c", 0, 64000),
    ]
    state = State(nodes, openb.COLUMNS)
    asked = [pod.request(state) for pod in pods]
    assert [request.models for request in asked] == [None, (0, 1), (1,), None, ()]
    assert [request.card_milli for request in asked] == [500, 1000, 2000, 0, 700]
    assert [one.seed for one in openb.read_arrivals(files["orders"], len(pods), len(nodes))] == [7, 8]


def test_replay_by_hand(files: dict[str, Path]) -> None:
    nodes, pods = openb.read_nodes(files["nodes"]), openb.read_pods(files["pods"])
    curve = replay.openb(nodes, pods, openb.Arrivals(**order()), "packing")
    # p2 fills b; p0, p1 and again p0 take two cards of a; a third p0 opens the third, p1 takes the last two, one is left
    assert (curve.arrived, curve.placed) == (2000 + 3 * 500 + 4 * 1000 + 700, 6000 - 500)
    assert curve.points()[33] == pytest.approx(100 * 2000 / 6000)
    assert list(curve.points()) == sorted(curve.points())


def test_points_are_means_of_the_arrivals_that_round_to_them() -> None:
    curve = replay.Curve(1000)
    for milli, fits in ((496, True), (3, True), (1, False), (5, True)):
        curve.add(milli, fits)
    # 49.6, 49.9, 50.0 and 50.5 % arrived; the last rounds up
    assert curve.points() == {50: pytest.approx((49.6 + 49.9 + 49.9) / 3), 51: pytest.approx(50.4)}


def test_a_cluster_without_cards_is_refused(files: dict[str, Path]) -> None:
    nodes = [node for node in openb.read_nodes(files["nodes"]) if not node.cards]
    with pytest.raises(ValueError, match="no node has a card"):
        replay.openb(nodes, openb.read_pods(files["pods"]), openb.Arrivals(**order(node_rank=[0])), "fgd")


WRONG = [
    ("nodes", "", ":1: has no column sn, cpu_milli, memory_mib, gpu, model"),
    ("nodes", "sn,cpu_milli,memory_mib,gpu,model\n", "has no nodes"),
    ("nodes", NODES + "a,1,1,0,\n", ":5: sn 'a' is on line 2 too; give every node a name of its own"),
    ("nodes", NODES + ",1,1,0,\n", ":5: sn '' is empty"),
    ("nodes", NODES + "d,1,1,2,\n", ":5: model '' is empty for 2 cards"),
    ("nodes", NODES + "d,1,1\n", ":5: has fewer values than the header"),
    ("nodes", NODES + "d,1,1,0,,9\n", ":5: has more values than the header"),
    ("nodes", NODES + "d,x,1,0,\n", ":5: cpu_milli 'x' is no whole number; write digits only"),
    ("nodes", NODES + "d,-1,1,0,\n", ":5: cpu_milli '-1' is outside"),
    ("nodes", NODES + "d,1,1,65,X\n", ":5: gpu '65' is outside 0..64"),
    ("pods", PODS + "p,1,1,1,1001,,\n", ":7: gpu_milli '1001' is outside 0..1000"),
    ("pods", PODS + "p,1,1,1,0,,\n", ":7: gpu_milli '0' does not go with num_gpu 1"),
    ("pods", PODS + "p,1,1,0,5,,\n", ":7: gpu_milli '5' does not go with num_gpu 0"),
    ("pods", PODS + "p,1,1,2,500,,\n", ":7: gpu_milli '500' is a share of several cards; write 1000"),
    ("pods", PODS + "p,99999999999999999999,1,0,0,,\n", ":7: cpu_milli '99999999999999999999' is outside"),
    ("pods", "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n", "has no pods"),
    ("orders", "", "has no sequences"),
    ("orders", "{\n", ":1: is no JSON"),
    ("orders", '{"seed": "x"}\n', ":1: is no sequence: "),
    ("orders", "\n" + json.dumps(order(rows=[5])), ":2: rows 5 is outside the pod list of 5; use the list"),
    ("orders", json.dumps(order(rows=[-1])), ":1: rows -1 is outside"),
    ("orders", json.dumps(order(node_rank=[0, 1])), ":1: node_rank '2 ranks' is no order of 3 nodes"),
    ("orders", json.dumps(order(node_rank=[0, 1, 1])), ":1: node_rank"),
    ("orders", json.dumps(order(originals=11)), ":1: originals 11 is outside 0..10"),
    ("orders", json.dumps(order()) + "\n" + json.dumps(order()), ":2: seed 7 is there twice"),
]


def command(files: dict[str, Path], *more: str) -> list[str]:
    return ["openb", "--nodes", str(files["nodes"]), "--pods", str(files["pods"]), "--sequences", str(files["orders"]), *more]


@pytest.mark.parametrize(("which", "text", "words"), WRONG)
def test_wrong_files_are_named_with_line_and_remedy(files: dict[str, Path], which: str, text: str, words: str) -> None:
    files[which].write_text(text)
    done = CliRunner().invoke(sim, command(files, "--policy", "fgd"))
    assert done.exit_code == 1
    assert done.output.startswith(f"forebay: {files[which]}")
    assert words in done.output
    assert done.output.count("\n") == 1


def test_files_that_are_no_text(files: dict[str, Path]) -> None:
    whole = files["orders"].read_bytes()
    for which, content, words in (
        ("orders", whole[:-12], "is no whole gzip file"),
        ("orders", whole[:40] + bytes(20) + whole[60:], "is no "),
        ("nodes", whole, "is no UTF-8 text"),
    ):
        kept = files[which].read_bytes()
        files[which].write_bytes(content)
        done = CliRunner().invoke(sim, command(files, "--policy", "fgd"))
        assert (done.exit_code, words in done.output) == (1, True), done.output
        files[which].write_bytes(kept)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_one_json_line_a_seed(files: dict[str, Path], policy: str) -> None:
    done = CliRunner().invoke(sim, command(files, "--policy", policy, "--seeds", "8,7,8", "-o", "json"))
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.output.splitlines()]
    assert [line["seed"] for line in lines] == [8, 7]
    for line in lines:
        assert set(line) == {"seed", "allocation", "seconds"}
        assert all(0 <= value <= 100 for value in line["allocation"].values())
        assert line["allocation"]["33"] == pytest.approx(33.333333)
        assert line["seconds"] >= 0
    if policy != "random":
        assert lines[0]["allocation"] == lines[1]["allocation"]


def test_a_table_for_a_person(files: dict[str, Path]) -> None:
    done = CliRunner().invoke(sim, command(files, "--policy", "bestfit"))
    assert done.exit_code == 0, done.output
    assert "mean" in done.output
    assert "GPUs allocated by bestfit" in done.output


def test_wrong_use(files: dict[str, Path]) -> None:
    for more, code, words in (
        (["--policy", "fdg"], 2, 'did you mean "fgd"'),
        (["--policy", "fgd", "--seeds", "1,9"], 1, "has no seed 1, 9: it has 7, 8"),
        (["--policy", "fgd", "--seeds", "x"], 2, "is no list of seeds"),
    ):
        done = CliRunner().invoke(sim, command(files, *more))
        assert (done.exit_code, words in done.output) == (code, True), done.output
