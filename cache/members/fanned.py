"""What several nodes do at once, told as the progress of one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import msgspec

from forebay.cache.peers import controlwire as c
from forebay.cache.peers.wire import Refused
from forebay.cache.stores.base import StoreError
from forebay.cache.warm import REPORT


def fanned(streams: dict[str, Callable[[], Iterator[c.Progress]]]) -> Iterator[c.Progress]:
    """The progress of several nodes as one, by their names; a node that fails does not stop the others."""
    latest: dict[str, c.Progress] = {}
    change = threading.Condition()
    stop = threading.Event()
    left = set(streams)

    def run(name: str, begin: Callable[[], Iterator[c.Progress]]) -> None:
        failure = "its progress ended without a result"
        try:
            stream = begin()
            try:
                for progress in stream:
                    with change:
                        latest[name] = progress
                    if progress.finished:
                        failure = ""
                    if stop.is_set():
                        return
            finally:
                close = getattr(stream, "close", None)
                if close is not None:
                    close()
        except (StoreError, Refused, c.ControlError) as e:
            failure = str(e)
        finally:
            with change:
                if failure:
                    was = latest.get(name, c.Progress())
                    latest[name] = msgspec.structs.replace(was, walked=True, failed=was.failed + 1, error=f"{name}: {failure}")
                left.discard(name)
                change.notify_all()

    for name, begin in streams.items():
        threading.Thread(target=run, args=(name, begin), name="forebay-load", daemon=True).start()
    try:
        while True:
            with change:
                ended = change.wait_for(lambda: not left, REPORT)
                parts = list(latest.values())
                told = len(parts) == len(streams)
            etas = [p.eta for p in parts]
            yield c.Progress(
                sum(p.files for p in parts), sum(p.files_total for p in parts), sum(p.bytes for p in parts),
                sum(p.bytes_total for p in parts), sum(p.rate for p in parts),
                None if not told or None in etas else max(e for e in etas if e is not None),
                told and all(p.walked for p in parts), ended, sum(p.failed for p in parts),
                next((p.error for p in parts if p.error), ""),
            )  # fmt: skip
            if ended:
                return
    finally:
        stop.set()
