"""Nodes of one dataset before any process starts: names, ports, directories, what `--join` needs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from servers import free_port, ports_for

from forebay.api import places
from forebay.api.spec import Cluster, DatasetSpec, Mount, Tier, encode_spec
from forebay.cache.members.node import DRAINED
from forebay.cache.members.roster import parse_members
from forebay.cache.peers.auth import load_secret, make_secret
from forebay.cli.machine import datasets, nodes, planning
from forebay.cli.machine.nodes import Start, read_join
from forebay.cli.main import cli
from forebay.cli.output import CommandError

ADDRESSES = nodes.on_loopback([10, 11, 20, 21, 30, 31])


def spec(top: str = "/c", name: str = "data", cluster: Cluster | None = None) -> DatasetSpec:
    mounts = [
        Mount("s3://b/", "s3", "/", "m", options={"endpoint": "http://x"}, secrets={"access_key": "AK", "secret_key": "SK"})
    ]
    tiers = [Tier("MEM", f"{top}/ns/{name}/tier0-mem"), Tier("SSD", f"{top}/ns/{name}/tier1-ssd")]
    return DatasetSpec("ns", name, mounts, tiers, f"{top}/ns/{name}/index", cluster=cluster)


def node(name: str, *, owns: bool = True, dataset: str = "data") -> DatasetSpec:
    return spec(name=dataset, cluster=Cluster("file:/m", "/s", name, owns=owns))


# --- several on one machine ---------------------------------------------------------------------------------------------


def test_the_ith_mount_is_the_ith_nodes_view_and_the_rest_are_client_tiers() -> None:
    starts = nodes.several(spec(), 2, ["/a", "/b", "/x", "/y"], Path("/c"), ADDRESSES)
    assert [(s.spec.cluster.node, s.mount) for s in starts if s.spec.cluster] == [
        ("node-1", "/a"), ("node-2", "/b"), ("client-1", "/x"), ("client-2", "/y"),
    ]  # fmt: skip
    assert [s.mount for s in nodes.several(spec(), 3, ["/a"], Path("/c"), ADDRESSES)] == ["/a", "", ""]


def test_each_node_has_its_own_directories() -> None:
    for start in nodes.several(spec(), 1, ["/a", "/b"], Path("/c"), ADDRESSES):
        name = start.spec.cluster.node if start.spec.cluster else ""
        assert start.spec.index_dir == f"/c/{name}/ns/data/index"
        assert [t.path for t in start.spec.tiers] == [f"/c/{name}/ns/data/tier0-mem", f"/c/{name}/ns/data/tier1-ssd"]


def test_a_client_tier_has_no_credentials_no_port_and_owns_nothing() -> None:
    worker, client = nodes.several(spec(), 1, ["/a", "/b"], Path("/c"), ADDRESSES)
    assert b"SK" in encode_spec(worker.spec)
    assert b"SK" not in encode_spec(client.spec)
    assert b"AK" not in encode_spec(client.spec)
    assert client.spec.mounts[0].identity == worker.spec.mounts[0].identity, "or it would ask for another tree"
    assert client.spec.cluster is not None
    assert (client.spec.cluster.listen, client.spec.cluster.control, client.spec.cluster.owns) == ("", "", False)


def test_member_list_is_what_the_workers_read() -> None:
    starts = nodes.several(spec(), 2, ["/a", "/b", "/x"], Path("/c"), ADDRESSES)
    listed = parse_members(nodes.member_list(starts))
    assert [(m.data, m.control, m.node, m.weight) for m in listed] == [
        ("127.0.0.1:10", "127.0.0.1:11", "node-1", 1.0), ("127.0.0.1:20", "127.0.0.1:21", "node-2", 1.0),
    ]  # fmt: skip
    assert [s.spec.cluster.listen for s in starts if s.spec.cluster] == ["127.0.0.1:10", "127.0.0.1:20", ""]


def test_prepare_makes_list_and_secret_and_takes_the_drained_back(tmp_path: Path) -> None:
    starts = nodes.several(spec(str(tmp_path)), 2, ["/a"], tmp_path, ADDRESSES)
    assert nodes.DRAINED == DRAINED, "what a worker leaves; importing it is too much for a command line"
    drained = Path(starts[1].spec.index_dir) / nodes.DRAINED
    drained.parent.mkdir(parents=True)
    drained.touch()
    nodes.prepare(starts, tmp_path)
    cluster = starts[0].spec.cluster
    assert cluster is not None
    secret = load_secret(cluster.secret_file)
    assert len(parse_members(Path(cluster.members.removeprefix("file:")).read_bytes())) == 2
    assert not drained.exists()
    nodes.prepare(starts[:1], tmp_path)
    assert load_secret(cluster.secret_file) == secret, "made once"
    assert len(parse_members(Path(cluster.members.removeprefix("file:")).read_bytes())) == 1
    Path(cluster.secret_file).chmod(0o644)
    with pytest.raises(CommandError, match="chmod 600"):
        nodes.prepare(starts, tmp_path)


@given(st.text(max_size=20), st.integers(1, 40), st.sets(st.integers(10240, 12000)))
def test_ports_are_free_distinct_and_below_those_of_connections(key: str, count: int, taken: set[int]) -> None:
    def free(port: int) -> bool:
        return port not in taken

    found = nodes.pick_ports(key, count, 32768, free)
    assert len(set(found)) == count
    assert all(nodes.LOWEST_PORT <= p < 32768 and p not in taken for p in found)
    assert found == nodes.pick_ports(key, count, 32768, free), "the same again, so that addresses stay"


def test_ports_can_run_out() -> None:
    with pytest.raises(CommandError, match="only 1 of 2 ports"):
        nodes.pick_ports("x", 2, 32768, lambda p: p == 20000)
    assert nodes.pick_ports("x", 1, 1024, lambda p: True), "a machine that gives every port to connections"


def test_a_port_in_use_is_not_free() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert not nodes.free(port)
        assert f"127.0.0.1:{port} is in use" in str(nodes.in_the_way(f"127.0.0.1:{port}"))
    assert nodes.free(port)
    assert "no address of this machine" in str(nodes.in_the_way("192.0.2.1:7401"))


# --- what up makes of its options -----------------------------------------------------------------------------------------


def plan(specs: list[DatasetSpec], at: list[str], workers: int | None = None, **more: Any) -> list[Start]:
    cache = more.pop("cache_dir", Path("/c"))
    arguments = {"join": None, "no_mount": False} | more
    return planning.planned(specs, tuple(map(Path, at)), cache, workers=workers, **arguments)


def test_one_worker_and_one_mount_is_a_dataset_without_a_cluster() -> None:
    assert plan([spec()], ["/a"], cache_dir=None) == [Start(spec(), "/a")]
    assert plan([spec()], ["/a"], 1) == [Start(spec(), "/a")]


def test_two_mounts_without_workers_are_a_worker_and_a_client_tier() -> None:
    assert [s.spec.cluster.node for s in plan([spec()], ["/a", "/b"]) if s.spec.cluster] == ["node-1", "client-1"]


def test_several_datasets_have_nodes_of_their_own() -> None:
    starts = plan([spec(name="one"), spec(name="two")], ["/a", "/b"], 2)
    assert [(s.spec.name, s.mount) for s in starts] == [
        ("one", "/a/one"),
        ("one", "/b/one"),
        ("two", "/a/two"),
        ("two", "/b/two"),
    ]
    listens = [s.spec.cluster.listen for s in starts if s.spec.cluster]
    assert len(set(listens)) == 4
    assert starts[0].spec.cluster != starts[2].spec.cluster


def test_several_nodes_need_a_directory_to_lie_in() -> None:
    with pytest.raises(CommandError, match="--cache-dir"):
        plan([spec()], ["/a"], 2, cache_dir=None)


def joining(**more: Any) -> nodes.Join:
    said: dict[str, Any] = {
        "listen": "10.0.0.1:7401", "secret_file": Path("/s"), "node": "n1", "control": "", "weight": 1.0, "client": False
    }  # fmt: skip
    return read_join(**(said | {"members": "file:/m.yaml"} | more))


def test_join_fills_in_what_is_not_said() -> None:
    assert joining() == nodes.Join("file:/m.yaml", "10.0.0.1:7401", "/s", "n1", "10.0.0.1:7402", 1.0, False)
    assert joining(listen="[fd00::1]:7401").control == "[fd00::1]:7402"
    assert joining(control="10.0.0.1:9").control == "10.0.0.1:9"
    assert joining(members="dns:workers.example").members == "dns:workers.example:7401", "the port of --listen"
    assert joining(members="dns:workers.example:9").members == "dns:workers.example:9"
    assert joining(members="m.yaml").members == f"file:{os.getcwd()}/m.yaml"
    assert joining(members="file:m.yaml").members == f"file:{os.getcwd()}/m.yaml"
    assert joining(node="").node == nodes.own_name()
    assert joining(client=True, listen="").control == ""


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"secret_file": None}, "--secret-file"),
        ({"listen": ""}, "needs --listen"),
        ({"listen": "10.0.0.1"}, "write HOST:PORT"),
        ({"listen": "0.0.0.0:7401"}, "is every address"),
        ({"listen": "10.0.0.1:65535"}, "--control-listen"),
        ({"control": "nonsense"}, "--control-listen"),
        ({"client": True}, "serves nobody"),
        ({"weight": 0.0}, "above 0"),
        ({"weight": float("nan")}, "above 0"),
        ({"node": "a@b"}, "no name of a node"),
        ({"node": "a/b"}, "no name of a node"),
        ({"members": "file:"}, "--join"),
        ({"members": "dns:"}, "--join"),
        ({"members": "dns:x:0"}, "--join"),
        ({"members": "dns:x", "client": True, "listen": ""}, "names no port"),
    ],
)
def test_join_refuses(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        joining(**said)


def test_join_words_say_the_same_again() -> None:
    for join in (joining(), joining(client=True, listen=""), joining(weight=2.5, members="dns:w.example")):
        words = join.words()
        again = dict(zip(words[::2], words[1::2], strict=False))
        assert join == read_join(
            again["--join"], listen=again.get("--listen", ""), secret_file=Path(again["--secret-file"]), node=again["--node"],
            control=again.get("--control-listen", ""), weight=float(again.get("--weight", 1)), client="--client" in words,
        )  # fmt: skip


def test_a_joined_client_tier_has_no_credentials() -> None:
    start = nodes.joined(spec(), joining(client=True, listen=""), "/a")
    assert b"SK" not in encode_spec(start.spec)
    assert start.spec.index_dir == "/c/ns/data/index", "the paths of the YAML: the machine is its own"
    (one,) = plan([spec()], [], join=joining(), no_mount=True)
    assert one.mount == ""
    for specs, at in (([spec(), spec(name="two")], ["/a"]), ([spec()], ["/a", "/b"])):
        with pytest.raises(CommandError, match="one node of one dataset"):
            plan(specs, at, join=joining())
    with pytest.raises(click.UsageError):
        plan([spec()], ["/a"], join=joining(), no_mount=True)


def test_a_directory_is_taken_as_shared_where_other_machines_read_it_too() -> None:
    disk = Mount("local:///srv", "file", "/disk", "disk")
    both = msgspec.structs.replace(spec(), mounts=[*spec().mounts, disk])
    assert nodes.joined(both, joining(), "/a").spec.mounts[-1].options == {"shared": "true"}
    alone = msgspec.structs.replace(disk, options={"shared": "false"})
    known = msgspec.structs.replace(both, mounts=[alone])
    assert nodes.joined(known, joining(), "/a").spec.mounts == [alone]


def test_check_join(tmp_path: Path) -> None:
    make_secret(str(tmp_path / "s"))
    listed = tmp_path / "m.yaml"
    mine, other = ports_for(2)
    listed.write_text(f"- data: 127.0.0.1:{mine}\n")

    def check(listen: str) -> tuple[list[str], list[str]]:
        cluster = Cluster(f"file:{listed}", str(tmp_path / "s"), "n", listen=listen)
        return nodes.check_join(spec(cluster=cluster))

    assert check(f"127.0.0.1:{mine}") == ([], [])
    problems, (warning,) = check(f"127.0.0.1:{other}")
    assert problems == []
    assert "is not in the member list" in warning
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (problem,), _ = check(f"127.0.0.1:{taken.getsockname()[1]}")
    assert "is in use" in problem
    listed.write_text("nonsense: [")
    (problem,), _ = check(f"127.0.0.1:{mine}")
    assert f"member list {listed}" in problem
    listed.unlink()
    (tmp_path / "s").chmod(0o644)
    problems, _ = check(f"127.0.0.1:{mine}")
    assert len(problems) == 2
    assert any("chmod 600" in p for p in problems)
    assert not any((tmp_path / "s").read_text().strip() in p for p in problems)


@pytest.mark.parametrize(
    "words",
    [
        ["--listen", "a:1"], ["--node", "x"], ["--client"], ["--secret-file", "/s"], ["--weight", "2"], ["--no-mount"],
        ["--workers", "2", "--join", "file:/m", "--listen", "a:1", "--secret-file", "/s"], ["--workers", "0"],
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_a_usage_error(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "d.yaml").touch()
    done = CliRunner().invoke(cli, ["up", "-f", str(tmp_path / "d.yaml"), *words])
    assert done.exit_code == 2, done.output


REPLICAS = """\
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: data}
spec: {mounts: [{mountPoint: "local:///tmp", path: /, name: m}]}
---
apiVersion: data.fluid.io/v1alpha1
kind: AlluxioRuntime
metadata: {name: data}
spec: {replicas: 3}
"""


def test_replicas_are_one_worker_here_unless_workers_says_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from forebay.cli.load import specs_or_fail

    (tmp_path / "d.yaml").write_text(REPLICAS)
    specs_or_fail((tmp_path / "d.yaml",), tmp_path)
    said = capsys.readouterr().err
    assert "spec.replicas" in said
    assert "one machine runs one worker" in said
    assert "--workers N" in said
    specs_or_fail((tmp_path / "d.yaml",), tmp_path, workers=2)
    assert "replicas" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--workers", "2", "--netns", "--mount", "/x/a", "--mount", "/x/b", "--cache-dir", "/x/c"], []),
        (
            ["--mount", "/x/a", "--join", "dns:w.example", "--listen", "10.0.0.1:7401", "--secret-file", "/s", "--node", "n"],
            ["--join dns:w.example:7401", "--control-listen 10.0.0.1:7402", "--weight 1"],
        ),
        (["--no-mount", "--join", "/m", "--listen", "10.0.0.1:7401", "--secret-file", "/s", "--node", "n"], ["--join file:/m"]),
    ],
)
def test_the_unit_says_it_all_again(tmp_path: Path, words: list[str], kept: list[str]) -> None:
    (tmp_path / "d.yaml").write_text(REPLICAS)
    done = CliRunner().invoke(cli, ["up", "-f", str(tmp_path / "d.yaml"), "--systemd", *words])
    assert done.exit_code == 0, done.output
    line = next(row for row in done.output.splitlines() if row.startswith("ExecStart="))
    said = f"{line} "
    for word in [*kept, *(w for w in words if w.startswith("--") and w != "--join")]:
        assert f" {word} " in said
    assert said.count(" --mount ") == words.count("--mount")


# --- run directories and names --------------------------------------------------------------------------------------------


@given(st.text(max_size=40), st.text(max_size=40, min_size=1))
def test_run_directories_of_nodes_are_short_and_of_nobody_else(name: str, node: str) -> None:
    run = places.run_dir("ns", name, node, root=Path("/r"))
    assert len(run.name) <= 30
    assert "/" not in run.name
    assert run != places.run_dir("ns", name, root=Path("/r"))
    assert run != places.run_dir("ns", f"{name}@{node}", root=Path("/r"))
    assert run != places.run_dir("ns", name, f"{node}x", root=Path("/r"))
    assert run != places.run_dir("ns", f"{name}x", node, root=Path("/r"))


def test_run_directory_says_the_node() -> None:
    assert places.run_dir("ns", "data", "node-1", root=Path("/r")) == Path("/r/ns/data@node-1")
    long = places.run_dir("n" * 63, "d" * 63, "x" * 63, root=Path("/run/user/4294967294/forebay"))
    assert len(str(long / places.SUPERVISOR_SOCK)) <= places.SUN_PATH


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[DatasetSpec], Path]:
    """Writes a run directory as `up` does."""
    monkeypatch.setenv("FOREBAY_RUN_DIR", str(tmp_path / "run"))

    def write(one: DatasetSpec) -> Path:
        run = datasets.run_of(one)
        run.mkdir(parents=True)
        (run / places.SPEC).write_bytes(encode_spec(one))
        return run

    return write


def test_a_name_finds_the_first_node_and_all_and_one(put: Callable[[DatasetSpec], Path]) -> None:
    for name in ("node-10", "node-2", "node-1"):
        put(node(name))
    put(node("client-1", owns=False))
    put(spec(name="plain"))
    assert [r.label for r in datasets.running()] == [
        "ns/data@node-1", "ns/data@node-2", "ns/data@node-10", "ns/data@client-1", "ns/plain",
    ]  # fmt: skip
    assert datasets.find("data").node == "node-1"
    assert datasets.find("data@node-10").node == "node-10"
    assert datasets.find("ns/data@client-1").node == "client-1"
    assert [r.node for r in datasets.find_all("data")] == ["node-1", "node-2", "node-10", "client-1"]
    assert [r.node for r in datasets.find_all("ns/data@node-2")] == ["node-2"]
    assert datasets.find("plain").node == ""
    assert [r.node for r in datasets.of_dataset("ns", "data")] == ["node-1", "node-2", "node-10", "client-1"]
    assert datasets.of_dataset("other", "data") == []
    for wrong in ("data@node-3", "plain@node-1"):
        with pytest.raises(CommandError, match="is not up here: say one of"):
            datasets.find(wrong)
    with pytest.raises(CommandError, match=r"up are: ns/data@node-1, .*ns/plain"):
        datasets.find("other@node-1")
    assert datasets.split("data@node-2:/a") == ("data@node-2", b"/a")
