"""Everything in one tree, all of it read: what worker and mount keep in memory."""

from __future__ import annotations

from context import Bench
from data import lists
from figures.big import MIB, remembered
from figures.small import FOREVER
from peers.base import Peer


def measure(bench: Bench, kind: type[Peer]) -> None:
    """`rss`: RssAnon over all processes after the big object and every object of the flat prefix were read."""
    names = [f"flat/flat/object-{i:06d}" for i in range(bench.data.size.flat)]
    ordered, _ = lists(bench.folder / "flat-lists", names, 0)
    with bench.guarded("rss", kind.name), bench.ready(kind, "big+flat") as peer:
        reader = bench.reader_of(peer)
        peer.mount()
        reader("seq", peer.root / "big" / bench.data.big, MIB)
        reader("files", peer.root, ordered, 4096, 4, FOREVER)
        remembered(bench, peer, "rss")
