"""What `.ci/run` makes of stages that pass, fail, or never end in order: stages of a Makefile of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / ".ci" / "run"
COMMON = ".PHONY: setup programs ci-stages {names}\nsetup:\n\t@mkdir -p .build\nprograms:\n\t@:\nci-stages:\n\t@echo {steps}\n"
SAYS = "@for i in 1 2 3 4 5; do echo {name} $$i; sleep 0.02; done"


def repository(folder: Path, steps: str, **stages: str) -> Path:
    """`stages`: what a stage does, by its name with _ for -."""
    recipes = {name.replace("_", "-"): recipe for name, recipe in stages.items()}
    text = COMMON.format(names=" ".join(recipes), steps=steps)
    (folder / "Makefile").write_text(text + "".join(f"{name}:\n\t{recipe}\n" for name, recipe in recipes.items()))
    (folder / ".ci").mkdir()
    return Path(shutil.copy(RUN, folder / ".ci"))


def environment() -> dict[str, str]:
    """Of no `make` above this one."""
    return {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CI")}


def run(program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program], capture_output=True, text=True, timeout=100, check=False, env=environment())


def table(said: str) -> dict[str, str]:
    """How each stage ended."""
    lines = said[said.rindex("\n\n") :].split("\n")
    return {line.split()[0]: line.partition(" s  ")[2] for line in lines if " s  " in line}


def test_stages_beside_others_are_shown_whole_and_all_of_them_run(tmp_path: Path) -> None:
    names = ("first", "left", "right", "then", "last")
    done = run(repository(tmp_path, "first left+right,then last", **{name: SAYS.format(name=name) for name in names}))
    assert done.returncode == 0, done.stderr
    assert table(done.stdout) == dict.fromkeys(names, "passed")
    for name in names:
        block = f"== make {name}\n" + "".join(f"{name} {i}\n" for i in range(1, 6))
        assert done.stdout.count(block) == 1, done.stdout
    assert done.stdout.index("== make right") < done.stdout.index("== make then") < done.stdout.index("== make last")


@pytest.mark.parametrize("failing", ["alone", "left", "right", "then"])
def test_a_stage_that_fails_fails_all_and_the_others_still_run(tmp_path: Path, failing: str) -> None:
    names = ("alone", "left", "right", "then", "last")
    stages = {name: f"@echo so says {name}; {'exit 3' if name == failing else ':'}" for name in names}
    done = run(repository(tmp_path, "alone left+right,then last", **stages))
    assert done.returncode == 1
    assert done.stderr.endswith(f"failed: {failing}\n")
    assert table(done.stdout) == {name: "FAILED" if name == failing else "passed" for name in names}
    assert all(done.stdout.count(f"so says {name}\n") == 1 for name in names)


def test_what_failed_on_a_kubernetes_is_tried_once_more_when_the_others_have_ended(tmp_path: Path) -> None:
    once = "@echo ran e2e $(AGAIN); [ -e there ] || { touch there; exit 1; }"
    then = "@until [ -e .build/ci/e2e.ended ]; do sleep 0.01; done; echo ran kube $(AGAIN); exit 1"
    done = run(repository(tmp_path, "e2e+test-kube", e2e=once, test_kube=then))
    assert done.returncode == 1
    assert table(done.stdout) == {"e2e": "passed, UNSTEADY: what failed first passed at the second try", "test-kube": "FAILED"}
    said = [line for line in done.stdout.splitlines() if line.startswith("ran")]
    assert sorted(said[:2]) == ["ran e2e", "ran kube"], "each is shown when it has ended"
    assert said[2:] == ["ran e2e -n 0 --lf --lfnf=none", "ran kube -n 0 --lf --lfnf=none"]


def test_a_lane_that_is_killed_has_not_passed(tmp_path: Path) -> None:
    """Its shell is the parent of `make`, which is the parent of the shell of the recipe."""
    kill = "@kill -9 $$(awk '{print $$4}' /proc/$$PPID/stat)"
    done = run(repository(tmp_path, "left+right,then", left="@:", right=kill, then="@:"))
    assert done.returncode == 1
    assert table(done.stdout) == {"left": "passed", "right": "FAILED", "then": "FAILED"}


@pytest.mark.parametrize("steps", ["left", "left+right"])
def test_when_it_is_told_to_end_its_stages_end(tmp_path: Path, steps: str) -> None:
    stay = "@echo $$$$ >{name}.pid; exec sleep 300"
    program = repository(tmp_path, steps, left=stay.format(name="left"), right=stay.format(name="right"))
    process = subprocess.Popen([program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    files = [tmp_path / f"{name}.pid" for name in steps.split("+")]
    soon(lambda: all(file.exists() and file.read_text() for file in files))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    soon(lambda: not any(Path("/proc", file.read_text().strip()).exists() for file in files))


def soon(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
