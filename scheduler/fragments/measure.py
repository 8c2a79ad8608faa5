"""How much of a node's free cards the pods that usually come could not use: the measure F of FGD.

F(n) = sum over typical pods t of weight(t) x frag(n, t). frag is all free milli of the node, unless t asks for cards and fits the
node's CPU and accepted cards; then it is only what is free on cards that t could not use.
Source: Weng et al., "Beware of Fragmentation", USENIX ATC 2023. There the cards of a node have one model; with several, a card
of a model that t does not accept counts as one that t could not use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from forebay.scheduler.arrays.types import Floats, Ints, Shorts
from forebay.scheduler.pods.request import Request

COVER = 0.95
"""Share of the pods that the typical ones stand for."""

Shape = tuple[int, int, int, tuple[int, ...] | None]
"""CPU, milli of each card, number of cards, accepted models: what the measure looks at of a pod."""


def shape_of(request: Request) -> Shape:
    """The part of a request that makes it typical: its first resource (CPU) and its cards."""
    return request.resources[0], request.milli, request.cards, request.models


def typical(history: Iterable[Request], models: Sequence[str], cover: float = COVER) -> list[tuple[Shape, float]]:
    """The most frequent shapes that together cover `cover` of the pods, with weights that sum to 1; [] for no pods.

    Order among equally frequent ones: CPU, milli, cards, model names, all descending, as in the published evaluation.
    """
    counts = Counter(map(shape_of, history))

    def order(shape: Shape) -> tuple[int, int, int, int, str]:
        names = "|".join(models[m] for m in shape[3]) if shape[3] is not None else ""
        return (counts[shape], *shape[:3], names)

    total, kept = counts.total(), list[Shape]()
    covered = 0
    for shape in sorted(counts, key=order, reverse=True):
        if covered >= cover * total:
            break
        kept.append(shape)
        covered += counts[shape]
    return [(shape, counts[shape] / covered) for shape in kept]


class Fragmentation:
    """F for many node states at once.

    Typical pods that ask for the same share of the same models are one *kind*; a table holds, by kind, number of usable cards and
    CPU step, the weight of the pods that would fit. So a state costs one look-up per kind, however many typical pods there are.
    """

    def __init__(self, pods: Sequence[tuple[Shape, float]], places: int, models: int) -> None:
        """`places` is the most cards a node has, `models` how many card models there are."""
        asking = [(shape, weight) for shape, weight in pods if shape[2]]
        kinds = sorted({(shape[1], shape[3]) for shape, _ in asking}, key=repr)
        self._milli: Ints = np.array([milli for milli, _ in kinds], np.int64)
        self._picky = any(accepted is not None for _, accepted in kinds)
        self._accepts = np.zeros((models + 1, len(kinds)), np.bool_)  # the last row answers for a place without a card
        for column, (_, accepted) in enumerate(kinds):
            self._accepts[list(range(models)) if accepted is None else list(accepted), column] = True
        self._steps: Ints = np.array(sorted({shape[0] for shape, _ in asking}), np.int64)
        self._fit = np.zeros((len(kinds), places + 1, len(self._steps) + 1))
        for shape, weight in asking:
            step = int(np.searchsorted(self._steps, shape[0], side="right"))
            self._fit[kinds.index((shape[1], shape[3])), shape[2] :, step:] += weight
        self._kinds = np.arange(len(kinds))

    def measure(self, cpu: Ints, card_free: Ints, card_model: Shorts) -> Floats:
        """F of S states: free CPU [S], free milli of the cards [S, C], their models [S, C]; in milli."""
        total: Floats = card_free.sum(axis=1).astype(np.float64)
        if not len(self._kinds):
            return total
        fits = card_free[:, :, None] >= self._milli
        if self._picky:
            fits &= self._accepts[card_model]
        parts = fits.astype(np.float64)
        usable = np.matmul(card_free[:, None, :].astype(np.float64), parts)[:, 0, :]  # free milli on cards that fit, [S, kinds]
        count = parts.sum(axis=1).astype(np.int64)
        step = np.searchsorted(self._steps, cpu, side="right")
        weight = self._fit[self._kinds, count, step[:, None]]
        result: Floats = total - (weight * usable).sum(axis=1)
        return result
