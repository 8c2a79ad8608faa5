"""What a worker tells its node of itself: one small file in its run directory, which the node's plugin reads.

The file is of a pod that anybody may have made, so it is read as any input is: bounded, and of no effect beyond its own dataset,
whose name is not in it. Its time of change says when the worker was last alive. Sizes are bytes, counters run since the start.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from forebay.api.spec import Medium

VERSION = 1
MOST = 64 << 10
"""Bytes of the file that are read."""
TROUBLE = 300
"""Characters of what is wrong with a store."""
_MOST_BYTES = 1 << 60

Size = Annotated[int, msgspec.Meta(ge=0, le=_MOST_BYTES)]


class SaidError(ValueError):
    """A file that cannot be believed, in one sentence."""


class SaidTier(msgspec.Struct, frozen=True, kw_only=True):
    """`quota` 0: none. `room`: bytes that may still come before the free-space floor; negative below it. `device`: of the
    directory's file system, on which others may lie as well."""

    medium: Medium
    quota: Size = 0
    used: Size = 0  # bytes that its files occupy
    held: Size = 0  # bytes of objects in them: what `used` is without what file systems round up
    copies: Size = 0  # of `held`, what belongs to other workers
    room: Annotated[int, msgspec.Meta(ge=-_MOST_BYTES, le=_MOST_BYTES)] = 0
    device: int = 0

    @property
    def capacity(self) -> int:
        """Bytes that it may hold as things are."""
        most = max(self.used + self.room, 0)
        return min(self.quota, most) if self.quota else most


class SaidLoad(msgspec.Struct, frozen=True, kw_only=True):
    """All loads that run there. `rate` in bytes per second, 0 while nothing is known of it."""

    remaining: Size = 0
    rate: Size = 0


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """`from_store`, `from_peers`: bytes that came; `loaded`: those that a load asked for, from wherever; `missed`: the rest, for
    readers or ahead of them. `local`: bytes of files that were opened again and lay here whole. `trouble`: why a store gives
    nothing, without what comes from Secrets. `full`: why no tier keeps anything, for the lack of free space."""

    version: int = VERSION
    owns: bool
    tiers: Annotated[tuple[SaidTier, ...], msgspec.Meta(max_length=32)] = ()
    total: Size = 0
    files: Size = 0
    listed: bool = False
    local: Size = 0
    missed: Size = 0
    from_store: Size = 0
    from_peers: Size = 0
    loaded: Size = 0
    revision: Annotated[str, msgspec.Meta(max_length=64)] = ""
    places: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=4096)], ...], msgspec.Meta(max_length=1024)] = ()
    drain: Literal["", "Running", "Done", "Refused"] = ""
    load: SaidLoad | None = None
    trouble: Annotated[str, msgspec.Meta(max_length=TROUBLE)] = ""
    full: Annotated[str, msgspec.Meta(max_length=TROUBLE)] = ""


def encode(said: Said) -> bytes:
    return msgspec.json.encode(said)


def decode(raw: bytes) -> Said:
    """Raises `SaidError`."""
    try:
        said = msgspec.json.decode(raw, type=Said)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise SaidError(
            f"a worker's word of itself cannot be read: {e}; use one version of forebay on node and in pods"
        ) from None
    if said.version != VERSION:
        raise SaidError(f"a worker's word of itself has version {said.version}, {VERSION} is known: use one version of forebay")
    return said
