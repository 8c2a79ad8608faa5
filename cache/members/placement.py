"""Which member owns which bytes: weighted rendezvous hashing of 64 MiB segments and of directories. Pure.

Every node computes the same order from the same member list, without asking anybody. A member that joins takes only what
it now wins, one that leaves gives up only what it had, and a changed weight moves only what it must (Thaler and Ravishankar,
"Using name-based mappings to increase hit rates", 1998; weights by -w / ln u as in Schindelhauer and Schomaker, 2005).
Nodes whose lists differ for a moment fetch some bytes twice and never wrong ones.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import xxhash

from forebay.cache.disk.index import SEGMENT

if TYPE_CHECKING:
    from forebay.cache.members.roster import Member

_U32 = struct.Struct("<I")
_F64 = struct.Struct("<d")
_SCALE = 1.0 / (1 << 52)


@lru_cache(maxsize=4096)
def _seed(member: str) -> int:
    return int(xxhash.xxh3_64_intdigest(member.encode()))


def score(member: str, weight: float, item: bytes) -> float:
    """How much a member wants an item; the highest owns it. 0 for a member without weight, which owns nothing."""
    if weight <= 0:
        return 0.0
    h = xxhash.xxh3_64_intdigest(item, _seed(member))
    # 52 bits and a half: never 0 and never 1, whose logarithms are of no use
    return -weight / math.log(((h >> 12) + 0.5) * _SCALE)


def _rank(item: bytes, members: Sequence[Member]) -> list[Member]:
    scored = [(score(m.id, m.weight, item), m.id, m) for m in members]
    scored.sort(key=lambda s: (-s[0], s[1]))
    return [m for s, _, m in scored if s > 0]


def rank(oid: bytes, segment: int, members: Sequence[Member]) -> list[Member]:
    """Members in the order in which they own a segment of an object: the owner first, then its successors."""
    return _rank(oid + _U32.pack(segment), members)


def owner(oid: bytes, segment: int, members: Sequence[Member]) -> Member | None:
    """The first of `rank`, None without members."""
    item = oid + _U32.pack(segment)
    return max(members, key=lambda m: (score(m.id, m.weight, item), m.id), default=None) if members else None


def rank_prefix(dataset: str, mount_source: str, prefix: bytes, members: Sequence[Member]) -> list[Member]:
    """Members in the order in which they own a directory: `prefix` is b"" or ends in "/"."""
    head = f"{dataset}\0{mount_source}\0".encode()
    return _rank(xxhash.xxh3_128_digest(head + prefix), members)


def prefix_owner(dataset: str, mount_source: str, prefix: bytes, members: Sequence[Member]) -> Member | None:
    """The member that lists a directory for all, None without members."""
    ranked = rank_prefix(dataset, mount_source, prefix, members)
    return ranked[0] if ranked else None


def epoch(members: Sequence[Member]) -> int:
    """One number for a member list: equal where identities and weights are, in whatever order they came."""
    h = xxhash.xxh3_64()
    for name, weight in sorted((m.id, m.weight) for m in members):
        raw = name.encode()
        h.update(_U32.pack(len(raw)) + raw + _F64.pack(weight))
    return int(h.intdigest())


def segment_of(offset: int) -> int:
    """The segment that holds the byte at `offset`."""
    return offset // SEGMENT
