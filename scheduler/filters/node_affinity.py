"""nodeSelector and required node affinity: all of the selector, and one of the terms.

In a term all expressions and fields must hold; a term without any holds nowhere. `matchFields` knows `metadata.name`.
"""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.labels import NAME
from forebay.scheduler.arrays.node_rows import NodeRows
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.filters.base import NodeMask
from forebay.scheduler.lack import Lack
from forebay.scheduler.pods.classes import NodeRule
from forebay.scheduler.pods.selectors import Requirement, Selector


class NodeAffinityCheck(NodeMask):
    def __init__(self, nodes: NodeRows, rule: NodeRule, subject: str = "node affinity") -> None:
        super().__init__(nodes)
        self._rule = rule
        self._subject = subject

    def compute(self, rows: Ints) -> Bools:
        passed = self.nodes.labels.satisfy_all(self._rule.always, rows)
        if self._rule.terms is not None:
            one = np.zeros(len(rows), np.bool_)
            for term in self._rule.terms:
                if term:
                    one |= self.nodes.labels.satisfy_all(term, rows)
            passed &= one
        return passed

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        """A selector's requirements one by one, the terms together."""
        found = []
        for requirement in self._rule.always:
            failed = ~self.nodes.labels.satisfy(requirement, rows)
            found.append(
                (Lack(f"no label {_show(requirement)}", f"label them {_show(requirement)} or change nodeSelector"), failed)
            )
        if self._rule.terms is not None:
            rest = NodeAffinityCheck(self.nodes, NodeRule((), self._rule.terms), self._subject)
            found.append((rest.lack(), ~rest.compute(rows)))
        return found

    def lack(self) -> Lack:
        terms = " or ".join(show_term(term) for term in self._rule.terms or ())
        return Lack(f"not of the {self._subject} ({terms})", f"change the {self._subject}")


def show_term(term: Selector) -> str:
    """For a sentence."""
    return " and ".join(map(_show, term)) or "nothing"


def _show(requirement: Requirement) -> str:
    return str(requirement._replace(key="metadata.name") if requirement.key == NAME else requirement)
