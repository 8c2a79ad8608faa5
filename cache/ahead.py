"""What to fetch before it is asked for: windows of sequential readers, and small files in directory order. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from forebay.cache.index import BLOCK

RANGE = 8 << 20
"""Bytes of one exchange with a store: 8-16 MiB amortise a round trip, and more would make a lane's tail long."""
WINDOW_FIRST, WINDOW_MOST = 2 << 20, 64 << 20
SLACK = 4 << 20
"""A want this near to where a reader stands continues it: the kernel's read-ahead arrives out of order."""
STREAMS = 8
"""Sequential readers told apart in one object."""
FILES_FIRST, FILES_MOST = 8, 64
DIRS = 256
"""Directories whose order of opening is remembered."""
INO_GAP = 16
"""Inode numbers may be missing between neighbours: subdirectories, names replaced meanwhile."""


class _Stream:
    __slots__ = ("ahead", "next", "window")

    def __init__(self, start: int, window: int) -> None:
        self.next = start  # where the reader is expected to go on
        self.window = window
        self.ahead = start  # up to here bytes were asked for


class Streams:
    """The sequential readers of one object."""

    __slots__ = ("_streams",)

    def __init__(self) -> None:
        self._streams: list[_Stream] = []

    def window(self, start: int, stop: int, size: int, most: int = WINDOW_MOST) -> tuple[int, int]:
        """Bytes [from, to) worth fetching beyond a want for [start, stop). Empty for a random reader.

        A reader that begins at 0 or goes on where one stood is sequential: its window doubles with each want.
        """
        found = next((s for s in self._streams if s.next - SLACK <= start <= s.next + SLACK), None)
        if found is None:
            found = _Stream(start, WINDOW_FIRST if start == 0 else 0)
            self._streams.insert(0, found)
            del self._streams[STREAMS:]
        else:
            if self._streams[0] is not found:
                self._streams.remove(found)
                self._streams.insert(0, found)
            if stop > found.next:
                found.window = min(max(found.window * 2, WINDOW_FIRST), most)
        found.next = max(found.next, stop)
        found.ahead = max(found.ahead, stop)
        if not found.window:
            return stop, stop
        target = min(found.next + found.window, size)
        # whole ranges once the window is wide, so that a window sliding by 1 MiB does not ask for 1 MiB at a time
        step = min(RANGE, found.window)
        if target < size:
            target -= target % step
        if target - found.ahead < step // 2 and target < size:
            return stop, stop
        begin, found.ahead = found.ahead, max(found.ahead, target)
        return begin, found.ahead

    def told(self, start: int, upto: int) -> None:
        """The reader at `start` knows that everything up to `upto` is there, and will ask again from there."""
        for s in self._streams:
            if s.next - SLACK <= start <= s.next + SLACK:
                s.next = max(s.next, upto)
                s.ahead = max(s.ahead, upto)
                return


TOLD_MOST = 8 << 20
"""How far beyond what he asked a reader is told that bytes are there: one question for 8 MiB, and still his pace is seen."""
WIDTH_FIRST, WIDTH_MOST = 2, 12
GAIN = 1.15
"""A wider fan of ranges must bring this much more to stay."""
HOLD = 16
"""Epochs until a width that did not pay is tried again."""


class Width:
    """How many ranges of one store are read at a time: doubled while throughput rises, halved again when it did not.

    Too few leave a distant store's link idle, too many make lanes fight for cores: 8 lanes on two cores delayed every
    answer of the door by milliseconds.
    """

    __slots__ = ("_bytes", "_done", "_grew", "_hold", "_last", "_since", "width")

    def __init__(self) -> None:
        self.width = WIDTH_FIRST
        self._since = -1.0
        self._bytes = 0
        self._done = 0
        self._last = 0.0
        self._grew = False
        self._hold = 0

    def idle(self) -> None:
        """Fewer ranges were wanted than allowed: this epoch says nothing."""
        self._since = -1.0

    def finished(self, nbytes: int, now: float) -> None:
        """One range arrived while as many as allowed were under way."""
        if self._since < 0:
            self._since, self._bytes, self._done = now, 0, 0
            return
        self._bytes += nbytes
        self._done += 1
        if self._done < 2 * self.width or now <= self._since:
            return
        rate = self._bytes / (now - self._since)
        self._since, self._bytes, self._done = now, 0, 0
        if self._grew and rate < self._last * GAIN:
            self.width, self._grew, self._hold = max(self.width // 2, WIDTH_FIRST), False, HOLD
        elif self._hold:
            self._hold -= 1
        elif self.width < WIDTH_MOST:
            self.width, self._grew = min(self.width * 2, WIDTH_MOST), True
        else:
            self._grew = False
        self._last = rate


class Scan(NamedTuple):
    """Wanted: the next `count` files of directory `parent` with inode numbers above `after`."""

    parent: int
    after: int
    count: int  # type: ignore[assignment]  # hides tuple.count


class _Dir:
    __slots__ = ("last", "mark", "upto", "waiting", "window")

    def __init__(self, ino: int) -> None:
        self.last = ino
        self.upto = ino  # prefetched up to here
        self.mark = 0  # opening beyond this asks for more
        self.window = 0
        self.waiting = False


class Order:
    """Directories whose small files are opened in arrival order."""

    def __init__(self, most: int = FILES_MOST) -> None:
        self._dirs: OrderedDict[int, _Dir] = OrderedDict()
        self._most = most

    def opened(self, parent: int, ino: int) -> Scan | None:
        """A small file was opened: what to look up for prefetching, if anything.

        The second open in order starts with 8 files; each time a reader passes the middle of what was prefetched, the
        window doubles up to 64. A jump starts over.
        """
        d = self._dirs.get(parent)
        if d is None:
            self._dirs[parent] = _Dir(ino)
            if len(self._dirs) > DIRS:
                self._dirs.popitem(last=False)
            return None
        self._dirs.move_to_end(parent)
        if not d.last < ino <= max(d.last, d.upto) + INO_GAP:
            if not d.last - self._most <= ino <= d.last:  # readers in parallel overtake each other by a little
                d.last, d.upto, d.mark, d.window = ino, ino, 0, 0
            return None
        d.last = ino
        if d.waiting or ino < d.mark:
            return None
        d.window = min(max(d.window * 2, FILES_FIRST), self._most)
        d.waiting = True
        d.upto = max(d.upto, ino)
        return Scan(parent, d.upto, d.window)

    def scanned(self, parent: int, inos: list[int]) -> None:
        """The answer to a `Scan`: inode numbers found, in order, whether they had to be fetched or not."""
        d = self._dirs.get(parent)
        if d is None:
            return
        d.waiting = False
        if inos:
            d.upto = max(d.upto, inos[-1])
            d.mark = inos[len(inos) // 2]
        else:
            d.mark = d.upto + 1  # the end of the directory for now


def cut(first: int, last: int, range_bytes: int = RANGE) -> list[tuple[int, int]]:
    """Blocks [first, last) as (first, count) pieces that end on multiples of `range_bytes`."""
    per = range_bytes // BLOCK
    out = []
    while first < last:
        stop = min((first // per + 1) * per, last)
        out.append((first, stop - first))
        first = stop
    return out
