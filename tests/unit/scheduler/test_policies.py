"""Each baseline against its formula, worked by hand on small nodes."""

from __future__ import annotations

import numpy as np
import pytest

from forebay.scheduler.arrays.state import Card, Node, State
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import POLICIES, Setting, make

CPU, SHARE, ONE, TWO = Request((8000,)), Request((8000,), 1, 400), Request((8000,), 1, 1000), Request((16000,), 2, 1000)


def cluster() -> State:
    """Rows: 0 idle 4 cards; 1 a share of 400 on card 0; 2 one whole card taken; 3 both a share and a whole card; 4 no cards."""
    nodes = [Node(f"n{i}", {"cpu": 64000}, (Card("a"),) * 4) for i in range(4)]
    state = State([*nodes, Node("n4", {"cpu": 128000})], ["cpu"])
    state.place(1, SHARE, (0,))
    state.place(2, ONE, (0,))
    state.place(3, SHARE, (0,))
    state.place(3, ONE, (1,))
    return state


TABLE = [
    # 100 x (1 - (free cpu x asked / 128000^2 + free milli x asked / 4000^2) / 2)
    ("dotprod", CPU, [0, 1, 2, 3, 4], [98, 98, 98, 98, 96]),
    ("dotprod", ONE, [0, 1, 2, 3], [85, 87, 89, 90]),
    # 100 x (1 - ((free cpu - asked) / 128000 + (free milli - asked) / 4000) / 2)
    ("bestfit", ONE, [0, 1, 2, 3], [40, 48, 56, 64]),
    ("bestfit", CPU, [0, 1, 2, 3, 4], [28, 36, 43, 51, 53]),
    ("packing", CPU, [0, 1, 2, 3, 4], [0, 0, 0, 0, 0]),
    # idle node of 4 cards: 33 - 4; a card in use with 600 free: 100 - 60 / 10; an idle card of a node in use: 50 - 1
    ("packing", SHARE, [0, 1, 2, 3], [29, 94, 49, 94]),
    ("packing", ONE, [0, 1, 2, 3], [29, 49, 49, 49]),
    ("packing", TWO, [0, 1, 2, 3], [29, 48, 48, 48]),
    ("clustering", CPU, [0, 1, 2, 3, 4], [0, 0, 0, 0, 0]),
    # band + 25 x (4000 - free milli) / 4000
    ("clustering", SHARE, [0, 1, 2, 3], [25, 77, 6, 58]),
    ("clustering", ONE, [0, 1, 2, 3], [25, 2, 81, 58]),
    ("clustering", TWO, [0, 1, 2, 3], [25, 2, 6, 8]),
]


@pytest.mark.parametrize(("policy", "request_", "rows", "scores"), TABLE)
def test_scores(policy: str, request_: Request, rows: list[int], scores: list[int]) -> None:
    rating = make(policy, Setting()).rate(cluster(), request_, np.array(rows))
    assert rating.scores.tolist() == scores


def test_packing_prefers_an_idle_node_of_many_cards_to_one_of_few_only_above_sixteen() -> None:
    nodes = [Node(f"n{count}", {"cpu": 9}, (Card("a"),) * count) for count in (1, 8, 16, 20)]
    rating = make("packing", Setting()).rate(State(nodes, ["cpu"]), Request((1,), 1, 1000), np.arange(4))
    assert rating.scores.tolist() == [32, 25, 17, 20]


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"random", "fgd", "forebay"}))
def test_shares_take_the_tightest_card(name: str) -> None:
    state = State([Node("n", {"cpu": 64000}, (Card("a"),) * 3)], ["cpu"])
    state.place(0, Request((1,), 1, 300), (1,))
    state.place(0, Request((1,), 1, 500), (2,))
    rating = make(name, Setting()).rate(state, SHARE, state.rows)
    assert state.cards_for(SHARE, 0, int(rating.cards[0])) == (2,)


def test_an_unknown_policy_is_named_with_what_is_near() -> None:
    with pytest.raises(ValueError, match='there is no policy "bestfitt": did you mean "bestfit"'):
        make("bestfitt", Setting())
    with pytest.raises(ValueError, match="choose of random, dotprod"):
        make("xyz", Setting())
