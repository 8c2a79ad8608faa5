"""Seconds from the start of `forebay scheduler run` to its first binding, in a cluster that is full of pods.

    .venv/bin/python -P bench/figures/restart.py [--nodes 5000] [--pods 150000] [--waiting 1] [--rounds 3] [--json]

The cluster is a local server (`tests/support/replayapi.py`, a process of its own on the same machine) that answers LIST, WATCH
and bindings from bodies made before: what is measured is our process, from exec, with imports, unpacking, decoding and booking.
Over plain HTTP on loopback; no TLS, no etcd. For a real API server with fewer pods: `bench/figures/binding.py --restart 20000`.
`--realtime` (root) runs both at a real-time priority, for a machine that does other work meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
sys.path[:0] = [str(SUPPORT)]

from servers import free_port  # noqa: E402

PATIENCE = 1800.0


@contextmanager
def serving(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """The server's URL and what it serves, once all bodies are made."""
    port = free_port()
    numbers = [f"--{name}={getattr(options, name)}" for name in ("nodes", "pods", "waiting", "classes")]
    command = [sys.executable, "-P", str(SUPPORT / "replayapi.py"), f"--port={port}", *numbers]
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server ended before it served")
        if options.realtime:
            subprocess.run(["chrt", "-a", "-r", "-p", "1", str(process.pid)], check=True)
        yield f"http://127.0.0.1:{port}", json.loads(line)
    finally:
        process.kill()
        process.wait()


def asked(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/replay", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def once(url: str, folder: Path, count: int, program: list[str]) -> dict[str, Any]:
    """One start until `count` bindings; the process is ended then."""
    config = folder / "kubeconfig"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "replay",
                "clusters": [{"name": "replay", "cluster": {"server": url}}],
                "users": [{"name": "replay", "user": {}}],
                "contexts": [{"name": "replay", "context": {"cluster": "replay", "user": "replay"}}],
            }
        )
    )
    command = [*program, "scheduler", "run", "--no-leader-elect", f"--kubeconfig={config}", f"--listen=127.0.0.1:{free_port()}"]
    log = folder / "log"
    with log.open("wb") as out:
        began = time.monotonic()
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=out, stderr=out)
        try:
            while len(bound := asked(url)["bound"]) < count:
                if process.poll() is not None or time.monotonic() - began > PATIENCE:
                    raise SystemExit(f"{len(bound)} of {count} bindings came: {log.read_text()[-3000:]}")
                time.sleep(0.1)
            times = sorted(at for _, at in bound.values())
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            memory = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        finally:
            process.terminate()
            process.wait()
    return {
        "first binding s": round(times[0] - began, 2),
        "all bindings s": round(times[-1] - began, 2),
        "cpu s": round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2),
        "peak MB": int(memory["VmHWM"].split()[0]) // 1000,
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=150_000, help="bound when it starts")
    parser.add_argument("--waiting", type=int, default=1, help="pods that wait for it")
    parser.add_argument("--classes", type=int, default=2000, help="different templates of pods")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--realtime", action="store_true", help="at a real-time priority")
    parser.add_argument("--profile", type=Path, help="write cProfile's figures of the deciding thread there; costs time itself")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    for number in range(options.rounds):
        with serving(options) as (url, served), tempfile.TemporaryDirectory() as folder:
            start = "from forebay.cli.main import main; main()"
            if options.profile:
                start = PROFILED.format(repr(str(options.profile)))
            first = ["chrt", "-r", "1"] if options.realtime else []
            found = once(url, Path(folder), options.waiting, [*first, sys.executable, "-P", "-c", start])
        told = {"round": number, "nodes": options.nodes, "pods": options.pods, "MB listed": served["bytes"] // 10**6, **found}
        print(json.dumps(told) if options.json else ", ".join(f"{key} {value}" for key, value in told.items()), flush=True)


PROFILED = """
import cProfile
from forebay.scheduler.live import process
kept, tool = process.Scheduler._begin, cProfile.Profile()
def begin(self):
    while not (self._discovered.wait(0.1) and self.copies.wait(0.1)):
        pass
    tool.enable()
    try:
        return kept(self)
    finally:
        tool.disable()
        tool.dump_stats({})
process.Scheduler._begin = begin
from forebay.cli.main import main
main()
"""


if __name__ == "__main__":
    main()
