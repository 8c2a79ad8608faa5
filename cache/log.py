"""One structured line a decision, on stderr: JSON, at most a stated number a second per kind, and a count of those left out."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time

RATE = 5.0
"""Lines a second for each kind of decision; bursts up to twice that."""

_lock = threading.Lock()
_buckets: dict[str, list[float]] = {}  # what -> [tokens, last, left out]


def log(part: str, what: str, **fields: object) -> None:
    """Write `{"t": ..., "part": ..., "what": ..., ...}`. Bytes are written as UTF-8 with escapes, never dropped."""
    now = time.monotonic()
    with _lock:
        bucket = _buckets.setdefault(f"{part}.{what}", [2 * RATE, now, 0])
        bucket[0] = min(bucket[0] + (now - bucket[1]) * RATE, 2 * RATE)
        bucket[1] = now
        if bucket[0] < 1:
            bucket[2] += 1
            return
        bucket[0] -= 1
        left_out, bucket[2] = int(bucket[2]), 0
    line: dict[str, object] = {"t": round(time.time(), 3), "part": part, "what": what, **fields}
    if left_out:
        line["left_out"] = left_out
    text = json.dumps(line, default=_plain) + "\n"
    try:
        os.write(sys.stderr.fileno(), text.encode())  # one write a line: whole lines from many threads
    except OSError:
        pass  # a log that cannot be written must not stop a cache


class Lines(logging.Handler):
    """Turns what modules say through `logging` into lines of this log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log(record.name.removeprefix("forebay."), record.levelname.lower(), text=record.getMessage())
        except (TypeError, ValueError) as e:  # a message whose arguments do not fit it
            log(record.name, "unsayable", text=str(record.msg), error=str(e))


def lines_left_out() -> int:
    """Lines that were not written because their kind came too often, since the last one of it."""
    with _lock:
        return int(sum(bucket[2] for bucket in _buckets.values()))


def _plain(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
