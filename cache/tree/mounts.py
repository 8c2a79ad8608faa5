"""Where the mounts of a dataset sit in its tree: pure.

The mount whose path is the longest prefix of a place owns it. Several mounts on one path are a union, in declared order. A
directory on the way to a mount path exists whether a store has it or not; an outer store's directory of that name shows
through beside the mount, an outer store's file is hidden by it. At a mount path itself the outer store is shadowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from forebay.api.spec import Mount


def components(path: str | bytes) -> tuple[bytes, ...]:
    """The names of an absolute path; `/a//b/` and `/a/b` are the same."""
    raw = path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")
    return tuple(part for part in raw.split(b"/") if part)


@dataclass
class Place:
    """A directory that exists because of a mount path. `sources` may hold it, in order; `own` are mounted right here."""

    own: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()
    children: dict[bytes, Place] = field(default_factory=dict)


def mount_tree(mounts: Sequence[Mount]) -> Place:
    """The places of all mount paths, the root first."""
    root = Place()
    for i, mount in enumerate(mounts):
        if mount.gone:
            continue
        place = root
        for name in components(mount.path):
            place = place.children.setdefault(name, Place())
        place.own = (*place.own, i)

    def inherit(place: Place, outer: tuple[int, ...]) -> None:
        place.sources = place.own or outer
        for child in place.children.values():
            inherit(child, place.sources)

    inherit(root, ())
    return root
