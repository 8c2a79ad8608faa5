"""Parts of objects on their way to members that are to have them: a thread a member, orders of many parts, and whoever comes
next where one cannot take a part."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from forebay.cache.members.roster import Member
from forebay.cache.peers.controlwire import ControlError, Part, Progress, Taken
from forebay.cache.peers.wire import Refused
from forebay.cache.stores.base import StoreError

PARTS = 256
"""Parts of one order."""
PART_BYTES = 256 << 20
KEY_BYTES = 256 << 10
"""Keys and versions of one order."""
WAITING = 8192
"""Parts that wait or are being taken, until which `give` returns at once."""
SHUT_FOR = 10.0
"""Seconds in which a member whose door did not answer is not asked again, when there is another."""
RATE_OVER = 5.0

Takes = Callable[[Member, list[Part]], Iterator[Taken]]


class _File:
    """Parts of one file that are still on their way."""

    __slots__ = ("failed", "left")

    def __init__(self, left: int) -> None:
        self.left, self.failed = left, False


class _Post:
    """A part and the members that may take it, the next one first. `file`: what it is counted as, None for itself."""

    __slots__ = ("file", "members", "part")

    def __init__(self, part: Part, members: list[Member], file: _File | None = None) -> None:
        self.part = part
        self.members = members
        self.file = file


class Handout:
    """`take` asks a member and brings what it says, as `ControlClient.take` does. Thread-safe; `close` it."""

    def __init__(self, take: Takes) -> None:
        self._take = take
        self._change = threading.Condition()
        self._queues: dict[str, deque[_Post]] = {}
        self._members: dict[str, Member] = {}
        self._shut: dict[str, float] = {}
        self._left = 0
        self._closed = False
        self._begun = time.monotonic()
        self._past: deque[tuple[float, int]] = deque([(self._begun, 0)])
        self.parts = self.bytes = self.bytes_done = 0
        self.things = self.things_done = self.failed = 0
        """Files, or parts that were given each by itself."""
        self.error = ""

    def give(self, part: Part, members: Sequence[Member]) -> bool:
        """Have the first of `members` that can take a part. Waits while very many wait. False when it was closed."""
        return self._give([_Post(part, list(members))])

    def give_file(self, parts: Sequence[tuple[Part, Member]]) -> bool:
        """Have each member take its part of one file, which counts as one, done with the last of them. As `give` else."""
        file = _File(len(parts))
        return self._give([_Post(part, [member], file) for part, member in parts])

    def _give(self, posts: Sequence[_Post]) -> bool:
        with self._change:
            while self._left >= WAITING and not self._closed:
                self._change.wait(1.0)
            if self._closed:
                return False
            self.things += 1
            self.parts += len(posts)
            self._left += len(posts)
            self.bytes += sum(post.part.hi - post.part.lo for post in posts)
            for post in posts:
                self._post(post, "no other member is known: correct the member list")
        return True

    def idle(self, timeout: float) -> bool:
        """Wait until nothing waits, at most `timeout` seconds. True as well when it was closed."""
        with self._change:
            return self._change.wait_for(lambda: not self._left or self._closed, timeout)

    def close(self) -> None:
        """Take nothing more; orders on their way end soon."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def progress(self, *, walked: bool, finished: bool, failures: Sequence[str] = ()) -> Progress:
        """`failures` are of what could not even be given."""
        with self._change:
            now = time.monotonic()
            self._past.append((now, self.bytes_done))
            while len(self._past) > 2 and now - self._past[0][0] > RATE_OVER:
                self._past.popleft()
            since, had = self._past[0]
            rate = (self.bytes_done - had) / (now - since) if now > since else 0.0
            left = self.bytes - self.bytes_done
            eta = None if not walked else 0.0 if left <= 0 else left / rate if rate > 0 else None
            return Progress(
                self.things_done, self.things, self.bytes_done, self.bytes, rate, eta, walked, finished,
                self.failed + len(failures), self.error or (failures[-1] if failures else ""),
            )  # fmt: skip

    # --- with the lock

    def _post(self, post: _Post, why: str) -> None:
        """To the next member of a part, or its end."""
        now = time.monotonic()
        well = [m for m in post.members if self._shut.get(m.id, 0.0) <= now]
        if not post.members:
            self._end(post, why)
            return
        member = (well or post.members)[0]
        post.members.remove(member)
        self._members[member.id] = member
        queue = self._queues.get(member.id)
        if queue is None:
            queue = self._queues[member.id] = deque()
            threading.Thread(target=self._run, args=(member.id, queue), name="forebay-handout", daemon=True).start()
        queue.append(post)
        self._change.notify_all()

    def _end(self, post: _Post, error: str = "") -> None:
        """A part was taken, or nobody takes it."""
        self.error = error or self.error
        if not error:
            self.bytes_done += post.part.hi - post.part.lo
        file = post.file or _File(1)
        file.left -= 1
        file.failed |= bool(error)
        if not file.left:
            self.things_done += not file.failed
            self.failed += file.failed
        self._left -= 1
        self._change.notify_all()

    # --- a thread a member

    def _run(self, identity: str, queue: deque[_Post]) -> None:
        while True:
            with self._change:
                while not queue and not self._closed:
                    self._change.wait(1.0)
                if self._closed:
                    return
                posts = [queue.popleft()]
                nbytes, keys = posts[0].part.hi - posts[0].part.lo, 0
                while queue and len(posts) < PARTS and nbytes < PART_BYTES and keys < KEY_BYTES:
                    post = queue.popleft()
                    nbytes += post.part.hi - post.part.lo
                    keys += len(post.part.ref.key) + len(post.part.ref.version) + len(post.part.ref.mount_source)
                    posts.append(post)
                member = self._members[identity]
            self._order(member, posts)

    def _order(self, member: Member, posts: list[_Post]) -> None:
        left = set(range(len(posts)))
        why = f"member {member.node or member.id} did not say what became of it"
        try:
            taking = self._take(member, [p.part for p in posts])
            try:
                for taken in taking:
                    with self._change:
                        for n in left & set(taken.done):
                            self._end(posts[n])
                        for n in left & taken.failed.keys():
                            self._post(posts[n], taken.failed[n])
                    left -= {*taken.done, *taken.failed}
                    if self._closed:
                        return
            finally:
                close = getattr(taking, "close", None)
                if close is not None:
                    close()
        except (ControlError, Refused, StoreError) as e:
            why = str(e)
            with self._change:
                self._shut[member.id] = time.monotonic() + SHUT_FOR
        with self._change:
            for n in left:
                self._post(posts[n], why)
