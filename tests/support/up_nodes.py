"""A dataset on several nodes of one machine, started as a person would."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from up_place import BIG, Place

TOTAL = BIG + sum(3000 + i for i in range(20))


class Nodes:
    """A place whose dataset is up on several nodes."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.mounts = [place.top / f"m{i}" for i in range(4)]

    def words(self, workers: int | None, mounts: int) -> list[str]:
        said = ["up", "-f", str(self.place.yaml), "--cache-dir", str(self.place.cache)]
        said += [] if workers is None else ["--workers", str(workers)]
        for mount in self.mounts[:mounts]:
            said += ["--mount", str(mount)]
        return said

    def up(self, workers: int | None, mounts: int, *more: str) -> subprocess.CompletedProcess[str]:
        return self.place(*self.words(workers, mounts), *more)

    def status(self, name: str = "data") -> dict[str, Any]:
        done = self.place("status", "-o", "json", name)
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def view(self) -> dict[str, Any]:
        (view,) = self.status()["clusters"]
        return dict(view)

    def reports(self) -> dict[str, dict[str, Any]]:
        return {d["node"]: d for d in self.status()["datasets"]}

    def pid(self, node: str, role: str) -> int:
        """0 while there is none."""
        return next((int(p["pid"]) for p in self.reports()[node]["processes"] if p["role"] == role), 0)

    def read(self, *numbers: int) -> None:
        """Compare whole trees, all at once: byte for byte what the origin has."""

        def same(i: int) -> bool:
            argv = ["diff", "-r", str(self.place.origin), str(self.mounts[i])]
            return subprocess.run(argv, capture_output=True, timeout=90, check=False).returncode == 0

        with ThreadPoolExecutor(len(numbers)) as pool:
            assert list(pool.map(same, numbers)) == [True] * len(numbers)
