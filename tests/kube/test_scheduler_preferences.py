"""Our points beside the real kube-scheduler's: the same random clusters and pods, and for every node the same score.

kube-scheduler gets one more profile, `points`, in which only the four plugins score that read preferences, with the weights that
they have by default; at its loudest it logs what it makes of each node. Compared are differences between nodes: what all have in
common (no taint anywhere is 100 each) decides nothing. Where the pod goes must be one of our best. Pods that were bound stay.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import yaml
from controlplane import ControlPlane, programs
from hypothesis import given
from hypothesis import strategies as st
from servers import free_port

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "scheduler"))

from clusters import nodes, preferring
from filterlab import where
from test_scheduler_filters import ANSWER, FLAGS, NAMES, Pair, before_it_starts, configuration, walking

from forebay.api.kubernetes.core import Container, Pod, Toleration
from forebay.kube.client import Client
from forebay.kube.errors import ApiError
from forebay.kube.objects import Key
from forebay.kube.resources import PODS
from forebay.kube.transport import Transport

SCORED = {"TaintToleration": 3, "NodeAffinity": 2, "PodTopologySpread": 2, "InterPodAffinity": 2}
LINE = re.compile(r'"Calculated node\'s final score for pod" pod="(?P<pod>[^"]+)" node="(?P<node>[^"]+)" score=(?P<score>-?\d+)')


class Real(NamedTuple):
    client: Client
    log: Path


def with_points(path: Path) -> Path:
    document = yaml.safe_load(path.read_text())
    enabled = [{"name": name, "weight": weight} for name, weight in SCORED.items()]
    plugins = {"postFilter": {"disabled": [{"name": "*"}]}, "score": {"disabled": [{"name": "*"}], "enabled": enabled}}
    document["profiles"].append({"schedulerName": "on-points", "plugins": plugins})
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """A control plane without controllers, and kube-scheduler with all that it has to say."""
    program = programs(["kube-scheduler"])["kube-scheduler"]
    folder = tmp_path_factory.mktemp("scheduler")
    with ControlPlane(tmp_path_factory.mktemp("plane"), api_flags=FLAGS, controllers=False) as plane:
        transport = Transport(plane.endpoint)
        client = Client(transport, manager="test")
        before_it_starts(client)
        config = with_points(configuration(folder, plane.kubeconfig))
        flags = [f"--config={config}", f"--secure-port={free_port()}", f"--cert-dir={folder}", "-v=10"]
        log = folder / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", program, *flags], stdout=file, stderr=file)
        try:
            yield Real(client, log)
            assert process.poll() is None, log.read_text()[-3000:]
        finally:
            process.kill()
            process.wait()
            transport.close()


class Scored(Pair):
    """A pair of clusters, and what both make of nodes."""

    def __init__(self, real: Real) -> None:
        super().__init__(real.client)
        self.log, self.compared, self.uneven = real.log, 0, 0

    def score(self, pod: Pod) -> None:
        """Lets kube-scheduler place the pod, and compares what it made of each node that fits."""
        meta, spec = self._body(pod)
        try:
            first = self._create(pod.metadata.namespace, meta, spec, "nobody")
        except ApiError as error:
            if error.code != 422:
                raise
            self.refused += 1
            return
        as_made = self._get(first)
        self.client.delete(PODS, first, grace=0)
        names = where(self.ours, as_made).split()
        if len(names) < 2:  # kube-scheduler scores nothing then
            return
        ours = self._ours(as_made, names)
        key = self._create(pod.metadata.namespace, meta, spec, "points")
        assert self._wait(key, lambda one: bool(one.spec.node_name)), f"kube-scheduler did not place {key}"
        theirs = self._theirs(key, len(names))
        assert theirs.keys() == ours.keys()
        assert len({theirs[name] - ours[name] for name in names}) == 1, (theirs, ours, spec, meta)
        placed = self._get(key)
        assert ours[placed.spec.node_name] == max(ours.values())
        self.ours.set_pod(placed)
        self.compared += 1
        self.uneven += len(set(ours.values())) > 1

    def _ours(self, pod: Pod, names: list[str]) -> dict[str, int]:
        rows = np.array(sorted(self.ours.row_of[name] for name in names))
        total: Any = self.ours.preferred(self.ours.request(pod), rows).total
        return {self.ours.names[row]: 0 if total is None else int(total[at]) for at, row in enumerate(rows.tolist())}

    def _theirs(self, key: Key, count: int) -> dict[str, int]:
        full, until = f"{key.namespace}/{key.name}", time.monotonic() + ANSWER
        while time.monotonic() < until:
            said = [one for one in LINE.finditer(self.log.read_text(errors="replace")) if one["pod"] == full]
            if len(said) >= count:
                return {one["node"]: int(one["score"]) for one in said}
            time.sleep(0.05)
        raise AssertionError(f"kube-scheduler logged no scores of {full}")


def easy(pod: Pod) -> Pod:
    """One that the API server takes and that fits on most nodes, so that there is something to compare."""
    spec = pod.spec
    hard = tuple(Toleration(operator="Exists", effect=effect) for effect in ("NoSchedule", "NoExecute"))
    known = tuple(one for one in spec.tolerations if one.operator not in ("Gt", "Lt"))  # behind a gate in 1.36
    even = tuple(
        one if one.label_selector else msgspec.structs.replace(one, match_label_keys=())
        for one in spec.topology_spread_constraints
    )
    small = (Container("c"),)
    spec = msgspec.structs.replace(
        spec, containers=small, init_containers=(), tolerations=(*known, *hard), topology_spread_constraints=even
    )
    return msgspec.structs.replace(pod, spec=spec)


@pytest.mark.timeout(1200)
def test_every_node_gets_the_same_points(real: Real) -> None:
    asked = {"compared": 0, "uneven": 0, "refused": 0}

    @walking(12)
    @given(st.data())
    def walk(data: st.DataObject) -> None:
        pair = Scored(real)
        try:
            for name in NAMES:
                pair.node(data.draw(nodes(name)))
            for number in range(12):
                pair.score(easy(data.draw(preferring(f"q{number}", rich=number % 4 == 0))))
        finally:
            pair.clear()
            for what in asked:
                asked[what] += getattr(pair, what)

    walk()
    print(asked)
    assert asked["compared"] > 60  # else the API server refused nearly all that was drawn, and nothing was compared
    assert asked["uneven"] > 40
