"""Pages with plots: well formed, nothing loaded from outside, every point where the axes say."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from forebay.cli.sim.command import sim
from forebay.scheduler.openb_report import page
from forebay.scheduler.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, html_table, nice, plot

VOID = {"meta", "line"}


class Balanced(HTMLParser):
    """Fails for a tag that is closed in the wrong order, and collects what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.loads = list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "xlink:href", "onload")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def sound(text: str) -> None:
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert parser.loads == []
    assert "<script" not in text
    assert "http" not in text
    assert "url(" not in text


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 7, [0, 2, 4, 6, 8]),
        (88, 96, [88, 90, 92, 94, 96]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
        (-3, 3, [-4, -2, 0, 2, 4]),
    ],
)
def test_marks_are_round_and_enclose(low: float, high: float, marks: list[float]) -> None:
    found = nice(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert found == pytest.approx(marks)


def test_points_are_where_the_axes_say() -> None:
    tree = ElementTree.fromstring(plot([("a <b>", [(0, 0), (50, 5), (100, 10)]), ("c", [(0, 10)])], "hours", "gangs"))
    line = next(one for one in tree if one.tag == "polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - TOP
    assert points == [(LEFT, HEIGHT - BOTTOM), (LEFT + wide / 2, HEIGHT - BOTTOM - high / 2), (LEFT + wide, TOP)]
    words = [one.text for one in tree if one.tag == "text"]
    assert {"hours", "gangs", "a <b>", "c", "0", "10", "100"} <= set(words)


def test_an_axis_may_begin_above_zero_and_nothing_may_be_there() -> None:
    assert ">91<" in plot([("a", [(0, 91.0), (1, 95.0)])], "x", "y", from_zero=False)
    ElementTree.fromstring(plot([], "x", "y"))
    ElementTree.fromstring(plot([("none", [])], "x", "y"))


def test_a_table_is_whole() -> None:
    tree = ElementTree.fromstring(html_table(["a", "b"], [["1", "2"], ["3", "4"]]))
    assert [[cell.text for cell in row] for row in tree] == [["a", "b"], ["1", "2"], ["3", "4"]]


def test_a_page_of_openb_says_its_numbers() -> None:
    runs = [(42, {50: 49.0, 100: 95.0, 130: 96.0}, 1.0), (43, {50: 50.0, 100: 97.0, 130: 96.0}, 1.2)]
    text = page("fgd", runs, "8 pods <here>")
    sound(text)
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    assert "<td>mean</td><td>49.50</td><td>96.00</td><td>96.00</td>" in rows[3]
    assert "<td>standard deviation</td><td>0.71</td>" in rows[4]
    assert "8 pods &lt;here&gt;" in text
    with pytest.raises(ValueError, match="no runs"):
        page("fgd", [], "")


def test_the_command_writes_it(tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text(
        "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(f"n{n},8000,8000,2,T4\n" for n in range(3))
    )
    (tmp_path / "pods.csv").write_text(
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n" + "".join(f"p{n},1000,100,1,1000,\n" for n in range(8))
    )
    order = {"seed": 1, "rows": list(range(8)), "originals": 8, "demand_milli_gpu": 8000, "node_rank": [0, 1, 2]}
    (tmp_path / "order.jsonl").write_text(json.dumps(order) + "\n")
    files = [
        f"--{option}={tmp_path / name}"
        for option, name in (("nodes", "nodes.csv"), ("pods", "pods.csv"), ("sequences", "order.jsonl"))
    ]
    report = tmp_path / "r.html"
    done = CliRunner().invoke(sim, ["openb", *files, "--policy", "fgd", "--report", str(report)])
    assert done.exit_code == 0, done.output
    text = report.read_text()
    sound(text)
    assert "8 pods of pods.csv on 3 nodes of nodes.csv" in text
    assert "<td>1</td>" in text
