"""The health door answers what it is asked and nothing else, and a caller that says nothing holds nobody up."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import controllerworld as w
import pytest
from prometheus_client import CollectorRegistry

from forebay.controller.copies import Copies
from forebay.controller.health import AT_ONCE, Door
from forebay.controller.metrics import Collector, Passes


@pytest.fixture
def door() -> Iterator[Door]:
    copies, registry, passes = Copies(), CollectorRegistry(), Passes()
    measured = {"measured": {"files": 7, "totalBytes": 5, "cachedBytes": 3}, "phase": "Bound"}
    w.put(copies, w.dataset() | {"status": measured}, w.dataset("e"))
    with passes:
        pass
    registry.register(Collector(copies, passes))
    made = Door(("127.0.0.1", 0), registry, {"/healthz": lambda: "", "/readyz": lambda: "the copy of Pod is not whole yet"})
    made.start()
    yield made
    made.stop()


def ask(door: Door, path: str, **more: object) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{door.port}{path}", **more)  # type: ignore[arg-type]
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_what_it_answers(door: Door) -> None:
    assert ask(door, "/healthz") == (200, "ok\n")
    assert ask(door, "/readyz") == (503, "the copy of Pod is not whole yet\n")
    assert ask(door, "/readyz?verbose") == (503, "the copy of Pod is not whole yet\n")
    code, text = ask(door, "/x")
    assert (code, "/metrics, /healthz, /readyz" in text) == (404, True)
    assert ask(door, "/healthz", method="POST", data=b"x")[0] == 501


def test_numbers_have_fluids_names(door: Door) -> None:
    code, text = ask(door, "/metrics")
    assert code == 200
    for line in (
        'dataset_ufs_file_num{dataset="ns/d"} 7.0',
        'dataset_ufs_total_size{dataset="ns/d"} 5.0',
        'forebay_datasets{phase="Bound"} 1.0',
        'forebay_datasets{phase="New"} 1.0',
        'forebay_pass_seconds_bucket{le="+Inf"} 1.0',
        "forebay_pass_seconds_count 1.0",
    ):
        assert line in text.splitlines()


def test_callers_that_say_nothing_hold_nobody_up(door: Door) -> None:
    held = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(AT_ONCE - 1)]
    try:
        assert ask(door, "/healthz") == (200, "ok\n")
    finally:
        for sock in held:
            sock.close()
