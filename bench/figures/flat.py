"""One flat prefix of a hundred thousand objects: how soon it is usable, how fast it lists once the index is filled."""

from __future__ import annotations

import statistics

from context import Bench
from measure import Result
from peers.base import Peer


def measure(bench: Bench, kind: type[Peer]) -> None:
    """`flat-stat` and `flat-page` (seconds after a cold mount), `flat-list` (entries/s after a remount, index filled)."""
    entries = bench.data.size.flat
    with bench.guarded("flat", kind.name), bench.ready(kind, "flat") as peer:
        reader = bench.reader_of(peer)
        firsts: list[Result] = []
        for i in range(bench.effort.cold_rounds):
            if i:
                peer.unmount()
                peer.forget()
            peer.mount()
            firsts.append(reader("first", peer.root / f"flat/object-{entries // 2:06d}", peer.root / "flat"))
        bench.record("flat-stat", kind.name, {"s": statistics.median(f["stat_s"] for f in firsts)})
        bench.record("flat-page", kind.name, {"s": statistics.median(f["page_s"] for f in firsts)})
        filled = reader("walk", peer.root / "flat")
        if filled["n"] != entries:
            raise RuntimeError(f"listed {filled['n']} of {entries} entries")
        bench.record("flat-list-first", kind.name, {"rate": filled["n"] / filled["s"], "s": filled["s"]}, per="wakeups")
        if not peer.keeps_cache:
            return
        rates = []
        for _ in range(bench.effort.cold_rounds):
            peer.unmount()
            peer.mount()
            got = reader("walk", peer.root / "flat")
            rates.append(got["n"] / got["s"])
        bench.record("flat-list", kind.name, {"rate": statistics.median(rates), "entries": entries}, per="wakeups")
