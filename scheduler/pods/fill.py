"""How nodes, and the cards of a node, are filled: words that pods, queues, node labels and settings share."""

from __future__ import annotations

from typing import Literal, NamedTuple

Order = Literal["", "binpack", "spread"]
"""binpack: what is in use already first; spread: what is least in use. "" leaves it to whoever is asked next."""


class Fill(NamedTuple):
    """Who says so first counts: the pod, its queue or the nearest parent of that, a node's label (cards), the settings; else the
    policy decides."""

    nodes: Order = ""
    cards: Order = ""

    def or_else(self, other: Fill) -> Fill:
        """This, and where it does not say, the other."""
        return Fill(self.nodes or other.nodes, self.cards or other.cards)


UNSAID = Fill()
