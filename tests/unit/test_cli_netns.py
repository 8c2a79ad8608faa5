"""Names and addresses of nodes with network namespaces of their own, and which stores they could not reach."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from forebay.api.spec import DatasetSpec, Mount, Tier
from forebay.cli.machine import netns
from forebay.cli.main import cli
from forebay.cli.output import CommandError

NAMES = ["node-1", "node-2", "client-1"]


@given(st.text(max_size=80), st.integers(1, 64))
def test_names_fit_an_interface_and_addresses_one_network(dataset: str, count: int) -> None:
    made = netns.plan(dataset, Path("/run/forebay"), [f"node-{i + 1}" for i in range(count)], lambda _: False)
    links = [made.bridge, *(p.link for p in made.nodes)]
    assert all(len(name) < 16 for name in links), "IFNAMSIZ"
    assert len(set(links)) == count + 1
    subnet = ipaddress.ip_network(made.subnet)
    addresses = [made.address, *(p.address for p in made.nodes)]
    assert len(set(addresses)) == count + 1
    assert all(ipaddress.ip_address(a) in subnet for a in addresses)
    assert subnet.subnet_of(netns.RANGE)


def test_the_same_dataset_gets_the_same_and_another_not() -> None:
    made = netns.plan("ns/data", Path("/r"), NAMES, lambda _: False)
    assert made == netns.plan("ns/data", Path("/r"), NAMES, lambda _: False)
    for other in (
        netns.plan("ns/other", Path("/r"), NAMES, lambda _: False),
        netns.plan("ns/data", Path("/elsewhere"), NAMES, lambda _: False),
    ):
        assert other.bridge != made.bridge
        assert not {p.namespace for p in other.nodes} & {p.namespace for p in made.nodes}


def test_a_network_in_use_is_left_alone() -> None:
    first = netns.plan("ns/data", Path("/r"), NAMES, lambda _: False)
    second = netns.plan("ns/data", Path("/r"), NAMES, lambda s: s == first.subnet)
    assert second.subnet != first.subnet
    assert second.bridge == first.bridge
    with pytest.raises(CommandError, match="every network"):
        netns.plan("ns/data", Path("/r"), NAMES, lambda _: True)


@pytest.mark.parametrize(
    ("mount", "reached"),
    [
        (Mount("s3://b/", "s3", "/", "m", options={"endpoint": "http://127.0.0.1:9000"}), False),
        (Mount("s3://b/", "s3", "/", "m", options={"endpoint": "http://localhost:9000"}), False),
        (Mount("s3://b/", "s3", "/", "m", options={"endpoint": "https://[::1]:9000"}), False),
        (Mount("http://127.8.8.8/x/", "http", "/", "m"), False),
        (Mount("http://x.localhost/", "http", "/", "m"), False),
        (Mount("s3://localhost/", "s3", "/", "m", options={"endpoint": "http://10.0.0.1:9000"}), True),
        (Mount("s3://b/", "s3", "/", "m", options={"endpoint": "http://198.19.0.1:9000"}), True),
        (Mount("https://example.org/x/", "http", "/", "m"), True),
        (Mount("local:///srv/127.0.0.1", "file", "/", "m"), True),
        (Mount("s3://b/", "s3", "/", "m"), True),
    ],
)
def test_a_store_on_the_loopback_is_out_of_reach(mount: Mount, reached: bool) -> None:
    said = netns.unreachable(DatasetSpec("ns", "data", [mount], [Tier("SSD", "/c")], "/c/index"), "198.19.0.1")
    assert (said == []) is reached
    assert all("198.19.0.1" in s and "--netns" in s for s in said)


@pytest.mark.parametrize("words", [["--netns"], ["--netns", "--join", "file:/m", "--listen", "a:1", "--secret-file", "/s"]])
def test_netns_is_for_workers_of_one_machine(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "d.yaml").touch()
    done = CliRunner().invoke(cli, ["up", "-f", str(tmp_path / "d.yaml"), *words])
    assert done.exit_code == 2
    assert "--workers N" in done.output


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.netns").write_text("{")
    with pytest.raises(CommandError, match="remove it"):
        netns.read_record(tmp_path / "x.netns")
    assert netns.read_record(tmp_path / "none.netns") is None


def test_only_root_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CommandError, match="takes root"):
        netns.can()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CommandError, match="apt install iproute2"):
        netns.can()


def test_a_command_keeps_its_words() -> None:
    argv = netns.entered("fb-x", ["/bin/true", "--mount", "/a"])
    assert argv[-3:] == ["/bin/true", "--mount", "/a"]
    assert "--net=/run/netns/fb-x" in argv
