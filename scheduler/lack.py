"""Why a node does not do, in words."""

from __future__ import annotations

from typing import NamedTuple


class Lack(NamedTuple):
    """`what` completes "40 nodes: ..."; `remedy` is what would change it, "" where nothing does; `key` names it in counts."""

    what: str
    remedy: str = ""
    key: str = ""

    @property
    def name(self) -> str:
        return self.key or self.what
