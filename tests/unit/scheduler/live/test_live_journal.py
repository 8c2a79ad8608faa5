"""What a core was told and said, in a file, and decided again by another process: the same bytes."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from livekit import bound, node, pod

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.groups import Groups
from forebay.scheduler.live import journal
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.instructions import Bind, Delete, Outcome, Result

DAY = 86_400 * 10**9
RESULTS: list[Result] = ["bound", "bound", "bound", "failed", "refused", "withheld", "gone"]
SHARES = {"aliyun.com/gpu-mem": "30", "aliyun.com/gpu-count": "2"}


class Clock:
    """Goes on, and jumps a day forth or back now and then."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._ns = chance, 1_700_000_000 * 10**9

    def __call__(self) -> int:
        self._ns += 10**8
        if self._chance.random() < 0.02:
            self._ns += self._chance.choice([-DAY, DAY])
        return self._ns


def day(path: Path, seed: int, steps: int = 200, *, prefer: bool = False) -> journal.Told:
    """A random day, recorded: nodes with cards, quotas that change, gangs, priorities, failures, deletions, new settings.
    `prefer`: pods prefer a node, and to be alone."""
    chance, now = random.Random(seed), 100.0
    settings = Configuration(preemption=seed % 2 == 0)
    moment = journal.Moment(Clock(chance))
    told = journal.Told(Core(settings, Groups(), moment), moment, journal.Writer(path, settings, "test"))
    nodes = {f"n{n}": node(f"n{n}", chance.randrange(2, 9), **(SHARES if n % 2 else {})) for n in range(5)}
    there, sent = dict[str, Pod](), list[Bind]()
    for one in nodes.values():
        told.change("Node", None, one)
    told.change("Quota", None, quota("4"))
    for step in range(steps):
        now += chance.random()
        what = chance.random()
        if what < 0.3:
            gang = (f"g{step}", 3) if chance.random() < 0.4 else None
            for n in range(3 if gang else 1):
                limits = {"aliyun.com/gpu-mem": str(chance.randrange(1, 9))} if chance.random() < 0.4 else {}
                wishes = preferred(chance) if prefer else {}
                one = pod(f"p{step}-{n}", chance.randrange(1, 4), gang, limits, priority=chance.randrange(3), **wishes)
                there[one.metadata.uid] = one
                told.change("Pod", None, one)
        elif what < 0.45 and there:
            gone = there.pop(chance.choice(sorted(there)))
            told.change("Pod", gone, None)
        elif what < 0.5:
            name = chance.choice(sorted(nodes))
            told.change("Node", nodes[name], None)
            told.change("Node", None, nodes[name])
        elif what < 0.53:
            told.change("Quota", quota("4"), quota("4"))
        elif what < 0.55:
            told.configure(Configuration(policy=chance.choice(["packing", "forebay"]), preemption=settings.preemption))
        elif sent:
            bind = sent.pop(chance.randrange(len(sent)))
            result = chance.choice(RESULTS[:-1]) if bind.pod.uid in there else "gone"
            told.outcome(Outcome(bind.number, bind.pod.uid, result, "as it was"), now)
            if result == "bound":
                old = there[bind.pod.uid]
                there[bind.pod.uid] = bound(old, bind.node, bind.annotations)
                told.change("Pod", old, there[bind.pod.uid])
        done = told.decide(now)
        sent += [one for one in done if isinstance(one, Bind)]
        for victim in [one.pod.uid for one in done if isinstance(one, Delete)]:
            if victim in there:
                told.change("Pod", there.pop(victim), None)
    told.close()
    return told


def preferred(chance: random.Random) -> dict[str, Any]:
    soft = "preferredDuringSchedulingIgnoredDuringExecution"
    named = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [f"n{chance.randrange(5)}"]}]}
    alone = {"labelSelector": {}, "topologyKey": "zone", "namespaceSelector": {}}
    node = {soft: [{"weight": chance.randrange(1, 101), "preference": named}]}
    return {"affinity": {"nodeAffinity": node, "podAntiAffinity": {soft: [{"weight": 5, "podAffinityTerm": alone}]}}}


def quota(most: str) -> dict[str, Any]:
    spec = {"min": {"cpu": most}, "max": {"cpu": "20"}}
    return {
        "apiVersion": "scheduling.x-k8s.io/v1alpha1",
        "kind": "ElasticQuota",
        "metadata": {"name": "q", "namespace": "n"},
        "spec": spec,
    }


@pytest.mark.parametrize(("seed", "prefer"), [*((seed, False) for seed in range(6)), (6, True), (7, True)])
def test_a_random_day_is_decided_again_to_the_byte(tmp_path: Path, seed: int, prefer: bool) -> None:
    path = tmp_path / "day.jsonl.gz"
    told = day(path, seed, prefer=prefer)
    core, found = journal.replay(path)
    assert not found.different
    assert found.passes == 200
    assert found.said["Bind"] > 20
    assert found.said["Tell"] > 5
    ours, theirs = told.core.books, core.books
    assert (ours.cluster.free == theirs.cluster.free).all()
    assert ours.devices.records == theirs.devices.records
    assert core.queue.counts() == told.core.queue.counts()


def test_another_process_decides_the_same_whatever_order_its_sets_have(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    day(path, 7)
    for seed in ("1", "2"):
        command = [
            sys.executable,
            "-P",
            "-c",
            "from forebay.cli.main import main; main()",
            "scheduler",
            "replay",
            str(path),
            "-o",
            "json",
        ]
        done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout)["different"] == []


def test_what_was_decided_otherwise_is_found(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    day(path, 3, steps=60)
    lines = path.read_bytes().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if b'"Bind"' in line)
    lines[number] = lines[number].replace(b'"node":"n', b'"node":"m', 1)
    path.write_bytes(b"".join(lines))
    _, found = journal.replay(path)
    assert len(found.different) == 1
    assert '"node":"m' in found.different[0].was[0]
    assert '"node":"n' in found.different[0].now[0]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is empty"),
        (b"no json\n", "j:1: is no head of a journal"),
        (b'{"version":99,"forebay":"9","settings":{}}\n', "has version 99, this forebay reads up to 1"),
        (b'{"version":1,"forebay":"9","settings":{}}\n{"type":"dream"}\n', "j:2: is no entry of a journal"),
    ],
)
def test_what_is_no_journal_is_told(tmp_path: Path, body: bytes, says: str) -> None:
    path = tmp_path / "j"
    path.write_bytes(body)
    with pytest.raises(journal.JournalError, match=says):
        journal.replay(path)


def test_one_that_is_cut_is_decided_as_far_as_it_goes(tmp_path: Path) -> None:
    plain, packed = tmp_path / "j", tmp_path / "j.gz"
    day(plain, 4, steps=40)
    whole = plain.read_bytes()
    plain.write_bytes(whole[:-30])
    packed.write_bytes(gzip.compress(whole)[:-9])
    for path, says in ((plain, "is cut: the process"), (packed, "is cut or not gzipped")):
        _, found = journal.replay(path)
        assert not found.different
        assert found.passes >= 39
        assert says in found.cut


def test_a_journal_that_is_full_ends_and_can_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "j"
    writer = journal.Writer(path, Configuration(), "test", most=900)
    for number in range(20):
        writer.add(journal.Passed(float(number), number))
    writer.close()
    assert "it is full" in caplog.text
    _, entries = journal.read(path)
    assert 0 < len(list(entries)) < 20


def test_settings_and_objects_are_read_as_they_were_written() -> None:
    settings = Configuration(policy="packing", qps=5)
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Configuration) == settings
    one = bound(pod("a", 2, ("g", 3), {"aliyun.com/gpu-mem": "3"}, priority=4), "n1", {"k": "v"})
    assert msgspec.json.decode(msgspec.json.encode(one), type=Pod) == one
