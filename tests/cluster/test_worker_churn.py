"""Objects that are wanted again at the moment they are evicted: right bytes, and no reader hears of it."""

from __future__ import annotations

import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from workerlab import MIB, Lab, Reader, file_mount, fill

from forebay.api.spec import Tier

pytestmark = pytest.mark.cluster
SECONDS, READS = 8.0, 1000


def test_what_is_evicted_and_wanted_at_once_has_no_holes(tmp_path: Path) -> None:
    """Four readers go round through more than the tier holds: what each wants next is what was evicted just now."""
    data = fill(tmp_path / "src", {f"{i:02}": 10 * MIB + i for i in range(12)})
    tiers = [Tier("SSD", str(tmp_path / "lab" / "t"), 80 * MIB, 0.95, 0.5)]
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")], tiers) as lab:
        lab.start()
        inos = {name: lab.node(f"/{name}").ino for name in data}
        until = time.monotonic() + SECONDS
        reads = [0]

        def reader(seed: int) -> None:
            rng = random.Random(seed)
            for name in itertools.cycle(sorted(data)):
                if time.monotonic() > until and reads[0] > READS:
                    return
                if rng.random() < 0.1:
                    continue
                opened, fd = lab.door.open(inos[name])
                r = Reader(lab.door, inos[name], opened, fd)
                try:
                    for at in range(0, len(data[name]), MIB):
                        length = min(MIB, len(data[name]) - at)
                        got = r.read(at, length)
                        assert got == data[name][at : at + length], f"{name} {at}+{length}: {got.count(0)} of {length} are zero"
                        reads[0] += 1
                finally:
                    r.close()

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(reader, seed) for seed in range(4)]:
                done.result(SECONDS + 120)
        print(reads[0], "reads")
        evictions = lab.stats()["evictions"]
        assert evictions["objects"] > 10, evictions  # type: ignore[index]
        for name, want in data.items():
            assert lab.read(f"/{name}") == want, name
