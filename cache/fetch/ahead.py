"""What to fetch before it is asked for: windows of sequential readers, and small files in directory order. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from forebay.cache.disk.index import BLOCK

RANGE = 8 << 20
"""Bytes of one exchange with a store: 8-16 MiB amortise a round trip, and more would make a lane's tail long."""
WINDOW_FIRST, WINDOW_MOST = 2 << 20, 64 << 20
SLACK = 4 << 20
"""A want this near to where a reader stands continues it: the kernel's read-ahead arrives out of order."""
STREAMS = 8
"""Sequential readers told apart in one object, or in one directory."""
FILES_FIRST, FILES_MOST = 8, 256
SCAN_BYTES = 32 << 20
"""Bytes of files that one scan may bring."""
BEHIND = 64
"""Files by which readers that share a list overtake each other."""
DIRS = 1024
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


SWEEP_FROM, SWEEP_PAYS, SWEEP_FILES = 16, 8, 64
"""Absent files of a directory that were opened in no order before the rest of it is fetched; files that each further one
brings; files of one step. A shuffled epoch asks for everything in the end, and many small files in one exchange cost a third."""


class Scan(NamedTuple):
    """Wanted: the next `count` files of directory `parent` with inode numbers above `after`.

    `spare`: only into room that nobody has to leave, because it is not known who opens them, nor when.
    """

    parent: int
    after: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    spare: bool = False


class _Reader:
    __slots__ = ("last", "mark", "upto", "window")

    def __init__(self, ino: int, window: int) -> None:
        self.last = ino
        self.upto = ino  # prefetched up to here
        self.mark = 0  # opening beyond this asks for more
        self.window = window


class _Sweep:
    __slots__ = ("after", "opened", "paid")

    def __init__(self) -> None:
        self.after: int | None = 0  # fetched up to here; None: all of it was looked at
        self.opened = 0  # absent files
        self.paid = 0  # files looked at


class _Dir:
    __slots__ = ("asked", "readers", "sweep")

    def __init__(self) -> None:
        self.readers: list[_Reader] = []  # who was seen last comes first
        self.sweep = _Sweep()
        self.asked: _Reader | _Sweep | None = None  # for what a scan is on its way


class Order:
    """Directories whose small files are opened: in arrival order, by several readers at their own pace, or in no order."""

    def __init__(self, most: int = FILES_MOST) -> None:
        self._dirs: OrderedDict[int, _Dir] = OrderedDict()
        self._most = most
        self._window = 0  # of the reader that went on last

    def opened(self, parent: int, ino: int, *, missed: bool = True) -> Scan | None:
        """A small file was opened: what to look up for prefetching, if anything. `missed`: it was not here.

        The second open in order starts with 8 files; each time a reader passes the middle of what was prefetched, the
        window doubles up to 256; it reaches into the next directory, and he takes it along. A jump is another reader.
        """
        d = self._dir(parent)
        r = self._reader(d.readers, ino)
        if r is not None and ino > r.last:
            return self._go_on(parent, d, r, ino)
        if r is None:
            if d.readers:
                self._window = 0
            d.readers.insert(0, _Reader(ino, self._window // 2))
            del d.readers[STREAMS:]
        d.sweep.opened += missed
        return self._sweep(parent, d)

    def _dir(self, parent: int) -> _Dir:
        d = self._dirs.get(parent)
        if d is None:
            d = self._dirs[parent] = _Dir()
            if len(self._dirs) > DIRS:
                self._dirs.popitem(last=False)
        else:
            self._dirs.move_to_end(parent)
        return d

    def _go_on(self, parent: int, d: _Dir, r: _Reader, ino: int) -> Scan | None:
        r.last = ino
        if d.asked is not None or ino < r.mark:
            return None
        self._window = r.window = min(max(r.window * 2, FILES_FIRST), self._most)
        r.upto = max(r.upto, ino)
        d.asked = r
        return Scan(parent, r.upto, r.window)

    @staticmethod
    def _sweep(parent: int, d: _Dir) -> Scan | None:
        s = d.sweep
        if d.asked is not None or s.after is None or s.paid >= SWEEP_PAYS * (s.opened - SWEEP_FROM):
            return None
        d.asked = s
        return Scan(parent, s.after, SWEEP_FILES, spare=True)

    def _reader(self, readers: list[_Reader], ino: int) -> _Reader | None:
        """Whose next file this is: a little beyond what he has, or behind, as processes that share a list overtake each other."""
        for i, r in enumerate(readers):
            if r.last - BEHIND <= ino <= max(r.last, r.upto) + INO_GAP:
                if i:
                    readers.insert(0, readers.pop(i))
                return r
        return None

    def entered(self, parent: int, inos: list[int]) -> None:
        """The first files of a directory that a reader will probably come to: they are fetched before he opens one."""
        d = self._dir(parent)
        if inos and not d.readers:
            r = _Reader(inos[0] - 1, self._window)
            r.upto, r.mark = inos[-1], inos[len(inos) // 2]
            d.readers.append(r)

    def scanned(self, parent: int, inos: list[int]) -> None:
        """The answer to a `Scan`: inode numbers found, in order, whether they had to be fetched or not."""
        d = self._dirs.get(parent)
        if d is None or d.asked is None:
            return
        r, d.asked = d.asked, None
        if isinstance(r, _Sweep):
            r.after = inos[-1] if inos else None
            r.paid += len(inos)
        elif inos:
            r.upto = max(r.upto, inos[-1])
            r.mark = inos[len(inos) // 2]
        else:
            r.mark = r.upto + 1  # the end of the directory for now


def cut(first: int, last: int, range_bytes: int = RANGE) -> list[tuple[int, int]]:
    """Blocks [first, last) as (first, count) pieces that end on multiples of `range_bytes`."""
    per = range_bytes // BLOCK
    out = []
    while first < last:
        stop = min((first // per + 1) * per, last)
        out.append((first, stop - first))
        first = stop
    return out
