"""The first epoch when the store is 5 ms further away, and the big object over a link of 500 MB/s."""

from __future__ import annotations

import stores
from context import Bench
from data import lists
from figures import big, small
from peers.base import Peer

DELAY_MS = 5.0


def delayed(bench: Bench, kind: type[Peer]) -> None:
    """`far-epoch`: one reader, directory order, every request 5 ms later."""
    ordered, _ = lists(bench.folder / "lists", bench.data.small_paths(), 0)
    with (
        stores.further(bench.store, DELAY_MS, f"{bench.token}-delay", bench.folder / "delay.log") as store,
        bench.guarded("far-epoch", kind.name),
        # What has a format of its own is copied in through the near door.
        bench.ready(kind, "small", store) as peer,
    ):
        peer.mount()
        small.cold_epoch(bench, peer, bench.reader_of(peer), ordered, "far-epoch")


def shaped(bench: Bench, kind: type[Peer]) -> None:
    """`shaped`: cold sequential against curl, both over the same link between network namespaces."""
    plain = bench.data.plain("big") / bench.data.big
    gateway = bench.build / "bin/versitygw"
    with (
        bench.guarded("shaped", kind.name),
        stores.shaped(gateway, bench.data.root, f"{bench.token}-shaped", bench.folder / "shaped.log") as store,
        bench.ready(kind, "big", store) as peer,
    ):
        big.cold(bench, peer, bench.reader_of(peer), peer.root / bench.data.big, plain, figure="shaped")
