"""What a tier admits and what it evicts. Pure: numbers in, decisions out.

Admission counts allocated bytes against two ceilings: the tier's quota and the free-space floor of its file system.
Eviction starts above `high` and frees down to `low`; the order of victims is the seam for better policies than LRU.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from forebay.api.manifests.freshness import FLOOR, NO_LIMIT

ALLOCATION = 4096
"""File systems allocate in pages: what a file of 1 byte costs."""
FULL_PAUSE = 5.0
"""Seconds for which a tier that answered ENOSPC admits nothing, so that a full disk costs one failed write and not thousands."""


class Answer(Enum):
    """What a tier says to bytes that want in."""

    ADMIT = "admit"
    EVICT = "evict"  # only after others went
    REFUSE = "refuse"


class Space(NamedTuple):
    """What statvfs said of a tier's file system."""

    free: int  # bytes
    total: int
    inodes_free: int
    inodes_total: int  # 0 where the file system has no such limit


@dataclass
class TierState:
    """Ceilings and use of one tier. `used` counts what its files have allocated or were promised."""

    quota: int  # bytes; 0 = the floor alone
    high: float
    low: float
    floor_ratio: float
    floor_bytes: int
    used: int = 0
    space: Space | None = None
    since: int = 0  # bytes promised since `space` was taken
    full_until: float = 0.0  # after ENOSPC
    evicting: bool = False
    exhausted: bool = False  # the last eviction found nothing that may go
    private: bool = False  # nothing else may use the file system, so there is nobody to leave a floor to

    def floor(self) -> int:
        """Bytes that stay free: min(ratio, bytes)."""
        if self.space is None or self.private:
            return 0
        return min(int(self.space.total * self.floor_ratio), self.floor_bytes)

    def headroom(self) -> int:
        """Bytes the file system may still give before its floor; large while unknown."""
        return 1 << 62 if self.space is None else self.space.free - self.since - self.floor()

    def inodes_short(self) -> bool:
        s = self.space
        if s is None or s.inodes_total == 0 or self.private or self.floor_ratio >= 1.0:
            return False  # a floor of bytes alone (ratio 1.0) says nothing of inodes
        return s.inodes_free < s.inodes_total * self.floor_ratio

    def ceiling(self) -> int:
        """The largest object this tier could hold if it held nothing else."""
        fs = 1 << 62 if self.space is None else max(self.headroom() + self.used, 0)
        return min(self.quota, fs) if self.quota else fs

    def ask(self, need: int, now: float) -> Answer:
        """May `need` more bytes be allocated?"""
        if now < self.full_until:
            return Answer.REFUSE
        fits = (not self.quota or self.used + need <= self.quota) and need <= self.headroom() and not self.inodes_short()
        if fits:
            return Answer.ADMIT
        if self.exhausted or self.used <= 0 or need > self.ceiling():
            return Answer.REFUSE
        return Answer.EVICT

    def crowded_out(self, path: str) -> str:
        """What others leave of the file system where that lets nothing of ours stay, "" where it does.

        It stands in conditions and Events: no word of it changes while it holds, however much or little is free.
        """
        if self.space is None:
            return ""
        if self.headroom() + self.used < ALLOCATION:
            return (
                f"others leave less than {self._floor_words()} of {path} free, and that stays free: "
                f"free some space, or lower the floor (annotation {FLOOR})"
            )
        if self.inodes_short() and self.used <= 0:
            return (
                f"others leave less than {self.floor_ratio:.0%} of the inodes of {path} free, and those stay free: "
                "delete small files there, or give the cache another directory"
            )
        return ""

    def roomy(self, need: int, now: float) -> bool:
        """Whether `need` more bytes fit below `high`, without anybody going."""
        return self.ask(need, now) is Answer.ADMIT and (not self.quota or self.used + need <= self.quota * self.high)

    def excess(self, need: int = 0) -> int:
        """Bytes to free so that `need` more fit; down to `low` once above `high`. 0 when nothing has to go."""
        out = 0
        if self.quota and self.used + need > self.quota * self.high:
            out = max(self.used + need - self.quota, self.used - int(self.quota * self.low))
        if self.headroom() < need:
            out = max(out, need - self.headroom())
        if self.inodes_short():
            out = max(out, min(self.used, 64 << 20))
        return max(min(out, self.used), 0)

    def _floor_words(self) -> str:
        if self.floor_bytes >= NO_LIMIT:
            return f"{self.floor_ratio:.0%}"
        return f"the smaller of {self.floor_ratio:.0%} and {_gib(self.floor_bytes)}"

    def stopped(self, path: str, now: float) -> str:
        """Empty while the tier admits; otherwise a sentence that says why not and what would change it."""
        s = self.space
        if now < self.full_until:
            return f"stopped: the file system of {path} is full: free some space, or give the cache another directory"
        if s is None:
            return ""
        if self.headroom() <= 0:
            return (
                f"stopped: {path} has {_gib(s.free)} free and {_gib(self.floor())} stay free "
                f"({self._floor_words()}): free some space, or lower the floor (annotation {FLOOR})"
            )
        if self.inodes_short():
            return (
                f"stopped: {path} has {s.inodes_free} of {s.inodes_total} inodes free and {self.floor_ratio:.0%} stay free: "
                "delete small files there, or give the cache another directory"
            )
        if self.exhausted and self.quota and self.used >= self.quota * self.high:
            return (
                f"stopped: the quota of {_gib(self.quota)} at {path} is held by open or pinned files: raise the quota, or unpin"
            )
        return ""


class Candidate(NamedTuple):
    """An object that could go."""

    oid: bytes
    allocated: int  # bytes its going frees
    pinned: bool


class Policy(Protocol):
    """Chooses who goes. `candidates` come least recently used first and are read only as far as needed."""

    def victims(self, candidates: Iterable[Candidate], need: int, held: Container[bytes]) -> list[Candidate]: ...


class Lru:
    """The least recently used go first; pinned, open and active objects never."""

    def __init__(self, most: int = 4096) -> None:
        self.most = most  # one round's bound: a transaction that evicts more would hold up commits

    def victims(self, candidates: Iterable[Candidate], need: int, held: Container[bytes]) -> list[Candidate]:
        """Objects whose going frees at least `need` bytes, or all that may go when they do not suffice."""
        out: list[Candidate] = []
        freed = 0
        for c in candidates:
            if freed >= need or len(out) >= self.most:
                break
            if c.pinned or c.oid in held:
                continue
            out.append(c)
            freed += c.allocated
        return out


def tier_for(tiers: Sequence[TierState], size: int, first: int, now: float) -> int:
    """Index of the first tier with room for an object of `size` bytes, else the largest that can make room; -1: none.

    `first`: bytes of it that are asked for at a time.
    """
    able = [i for i, t in enumerate(tiers) if size <= t.ceiling() and t.ask(min(size, first), now) is not Answer.REFUSE]
    roomy = next((i for i in able if tiers[i].roomy(size, now)), -1)
    return max(able, key=lambda i: tiers[i].ceiling()) if roomy < 0 and able else roomy


def allocation(size: int) -> int:
    """Bytes a file of `size` bytes allocates."""
    return (size + ALLOCATION - 1) // ALLOCATION * ALLOCATION


def _gib(n: int) -> str:
    return f"{n / (1 << 30):.1f} GiB"
