"""What the scoreboard says of results: pure, so a table of cases."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def load(name: str) -> ModuleType:
    """The bench is plain scripts, no package: they import each other by name when `run.py` starts them."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(BENCH))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCH))
    return module


scoreboard = load("scoreboard")


def row(figure: str, thing: str, **values: Any) -> dict[str, Any]:
    return {"figure": figure, "thing": thing, **values}


@pytest.mark.parametrize(
    ("figure", "key", "value", "ok"),
    [
        ("seq", "ratio", 0.90, True),
        ("seq", "ratio", 0.8999, False),
        ("rand", "ratio", 0.85, True),
        ("epoch", "ratio", 0.089, False),
        ("epoch-pinned", "ratio", 0.21, True),
        ("epoch-remount", "ratio", 0.08, True),
        ("cold", "ratio", 0.49, False),
        ("shaped", "ratio", 0.91, True),
        ("flat-list", "rate", 99_999.0, False),
        ("flat-stat", "s", 1.0, True),
        ("flat-page", "s", 1.01, False),
        ("amplify", "amplification", 1.0, True),
        ("amplify", "amplification", 1.01, False),
        ("amplify-kill", "amplification", 1.05, True),
        ("peer-link", "ratio", 0.89, False),
        ("peer-raw", "ratio", 0.5, True),
        ("peer-epoch", "ratio", 2.9, False),
        ("rss", "rss", 100 << 20, True),
        ("rss", "rss", (100 << 20) + 1, False),
    ],
)
def test_absolute_targets(figure: str, key: str, value: float, ok: bool) -> None:
    (line,) = scoreboard.judge([row(figure, "forebay", **{key: value})])
    assert line.ok is ok
    assert line.value == value


def test_a_failed_row_is_not_judged() -> None:
    assert scoreboard.judge([row("seq", "forebay", error="RuntimeError: it fell over")]) == []


def test_every_target_is_a_figure_that_a_row_can_have() -> None:
    rows = [row(t.figure, t.thing, **{t.key: t.goal}) for t in scoreboard.TARGETS]
    assert [line.ok for line in scoreboard.judge(rows)] == [True] * len(scoreboard.TARGETS)


@pytest.mark.parametrize(("ours", "theirs", "ok"), [(0.2, 0.1, True), (0.1, 0.2, False), (0.1, 0.1, False)])
def test_ahead_means_ahead_of_the_best(ours: float, theirs: float, ok: bool) -> None:
    rows = [
        row("epoch", "forebay", ratio=ours),
        row("epoch", "s3fs", ratio=0.01),
        row("epoch", "juicefs", ratio=theirs),
    ]
    line = scoreboard.judge(rows)[-1]
    assert (line.ok, line.target, line.note) == (ok, theirs, "juicefs")


def test_what_is_not_comparable_is_shown_and_not_judged() -> None:
    rows = [row("fill-8", "forebay", rate=1.0), row("fill-8", "juicefs", rate=2.0)]
    assert scoreboard.judge(rows) == []
    assert len(scoreboard.matrix(rows)) == 2


def test_less_memory_is_ahead() -> None:
    rows = [row("rss-small", "forebay", rss=50), row("rss-small", "juicefs", rss=100), row("rss-small", "s3fs", rss=70)]
    (line,) = scoreboard.judge(rows)
    assert (line.ok, line.note) == (True, "s3fs")


def test_wrong_bytes_take_a_peer_out_and_fail_ours() -> None:
    rows = [
        row("verify-small", "alluxio", compared=10, wrong=3),
        row("epoch", "forebay", ratio=0.1),
        row("epoch", "alluxio", ratio=0.9),
        row("epoch", "juicefs", ratio=0.08),
    ]
    assert scoreboard.judge(rows)[-1].note == "juicefs"
    assert "alluxio (WRONG BYTES)" in scoreboard.matrix(rows)[0]
    lines = scoreboard.judge([row("verify-big", "forebay", compared=1, wrong=1)])
    assert [line.ok for line in lines] == [False]


def test_profiles_are_held_against_the_best_that_keeps_pages() -> None:
    rows = [
        row("seq", "forebay-relayed", ratio=0.45),
        row("seq", "alluxio", ratio=0.5),
        row("seq", "s3fs", ratio=0.4),
        row("seq", "mountpoint", ratio=0.99),  # keeps no pages: not its peer here
    ]
    (line,) = scoreboard.judge(rows)
    assert line.value == pytest.approx(0.9)
    assert (line.ok, "alluxio" in line.note) == (True, True)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "x", "-"),
        (0.5, "x", "0.500"),
        (100 << 20, "bytes", "100.0 MiB"),
        (0.25, "s", "0.250 s"),
        (12_600_000_000.0, "B/s", "12.60 GB/s"),
        (1234.0, "/s", "1.23 k/s"),
        (12.0, "/s", "12.0 /s"),
    ],
)
def test_units(value: float | None, unit: str, text: str) -> None:
    assert scoreboard.show(value, unit) == text


def test_the_board_and_the_matrix_name_every_thing_with_a_row() -> None:
    rows = [
        row("seq", "forebay", ratio=0.95, rate=1e10),
        row("seq", "s3fs", error="RuntimeError: no"),
        row("rss-big", "rclone", rss=1),
    ]
    header, *body = scoreboard.matrix(rows)
    assert header == ["figure", "forebay", "s3fs", "rclone"]
    assert body[0][1:] == ["10.00 GB/s (0.950)", "failed", "-"]
    assert "ok" in scoreboard.board(rows)
    assert scoreboard.markdown([header, *body]).splitlines()[1] == "|---|---|---|---|"


def test_a_ratio_is_the_median_over_rounds_not_the_ratio_of_medians() -> None:
    measure = load("measure")
    turns = measure.Rounds(thing=[10.0, 40.0, 30.0], bound=[20.0, 40.0, 100.0], cpu=[1, 1, 1], done=[2, 2, 2])
    assert turns.ratio == pytest.approx(0.5)
    assert turns.spread == (pytest.approx(0.3), pytest.approx(1.0))
    assert turns.row()["cpu_per_unit"] == pytest.approx(0.5)


def test_rounds_alternate_who_comes_first() -> None:
    measure = load("measure")
    order: list[str] = []

    def side(name: str) -> Any:
        def read(i: int) -> dict[str, float]:
            order.append(f"{name}{i}")
            return {"n": 10.0, "s": 2.0, "cpu": 0.5}

        return read

    turns = measure.interleave(3, side("t"), side("b"), lambda r: r["n"])
    assert order == ["t0", "b0", "b1", "t1", "t2", "b2"]
    assert turns.rate == 5.0


MACHINE = {
    "date": "2026-01-02",
    "cores": 2,
    "cpu": "a CPU",
    "memory_gib": 24,
    "kernel": "6.18",
    "file_system": "ext4",
    "python": "3.11",
    "big": 2 << 30,
    "small": 20_000,
}


def test_the_page_gets_its_figures_and_says_what_is_lost() -> None:
    rows = [
        row("seq", "forebay", ratio=0.5, rate=1e9, cpu_s_per_gib=0.25),
        row("seq", "s3fs", ratio=0.6, rate=2e9, cpu_s_per_gib=0.5),
        row("cold", "forebay", ratio=0.6, rate=1e9, cpu_s_per_gib=2.0, sent=1.0),
    ]
    page = f"before\n{scoreboard.BEGIN}\nearlier figures\n{scoreboard.END}\nafter\n"
    new = scoreboard.publish(page, MACHINE, rows)
    assert new.startswith("before\n")
    assert new.endswith(f"{scoreboard.END}\nafter\n")
    assert "earlier figures" not in new
    assert "| forebay | 0.25 | 2.00 | 1.00 |" in new
    assert "0.600 (s3fs) | **behind**" in new
    assert "Rows we lose: warm sequential 1 MiB / ext4; warm sequential / ext4." in new
    assert scoreboard.publish(new, MACHINE, rows) == new


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="no lines"):
        scoreboard.publish("a page", MACHINE, [])


def test_the_page_in_docs_has_a_place() -> None:
    page = (BENCH.parent / "docs/performance.md").read_text()
    assert page.count(scoreboard.BEGIN) == page.count(scoreboard.END) == 1


def test_every_thing_of_the_catalogue_can_be_made() -> None:
    """A thing that lacks a method of its interface would leave its rows empty, ours included."""
    things = load("peers/catalogue").ALL
    assert "forebay" in things
    assert {name: set(thing.__abstractmethods__) for name, thing in things.items() if thing.__abstractmethods__} == {}
