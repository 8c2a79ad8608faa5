"""The numbers as Prometheus text, where they may be served, and the log's bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forebay.cache import log as logs
from forebay.cache.metrics import exposition, loopback

VALUES: dict[str, Any] = {
    "uptime": 5.0,
    "hits": 3,
    "misses": 2,
    "bytes_served": {"disk": 100, "store": 50},
    "evictions": {"objects": 1, "bytes": 4096},
    "requests": {"Open": 5},
    "door": {"connections": 2, "refused": 0},
    "load": {"active": 1},
    "scrub": {"bytes_checked": 7, "bad_blocks": 0},
    "tiers": [
        {
            "path": '/a "b"',
            "medium": "SSD",
            "bytes_used": 9,
            "quota": 0,
            "bytes_free": None,
            "objects": 1,
            "copies_bytes": 4096,
            "copies_objects": 1,
            "admission": "stopped: x",
        }
    ],
    "mounts": [{"path": "/", "requests": 8, "bytes_fetched": 9, "errors": 1}],
    "tree": {"files": 10, "dirs": 2, "walk_done": False},
}


def test_every_number_is_in_the_text() -> None:
    text = exposition(VALUES)
    for line in (
        "forebay_uptime_seconds 5.0",
        'forebay_opens_total{result="hit"} 3.0',
        'forebay_served_bytes_total{source="store"} 50.0',
        'forebay_tier_admits{medium="SSD",tier="/a \\"b\\""} 0.0',
        'forebay_tier_copies_bytes{medium="SSD",tier="/a \\"b\\""} 4096.0',
        'forebay_store_errors_total{mount="/"} 1.0',
        "forebay_walk_done 0.0",
        "forebay_evicted_bytes_total 4096.0",
    ):
        assert line in text.splitlines(), line
    assert "# HELP forebay_opens_total" in text


def test_hundreds_of_mounts_left_out_of_a_report_leave_the_rest() -> None:
    assert "forebay_tier_used_bytes" in exposition(VALUES | {"mounts": "300 left out"})


@pytest.mark.parametrize(
    ("address", "got"),
    [
        ("127.0.0.1:9180", ("127.0.0.1", 9180)),
        ("localhost:1", ("127.0.0.1", 1)),
        (":80", ("127.0.0.1", 80)),
        ("[::1]:5", ("::1", 5)),
    ],
)
def test_loopback_addresses(address: str, got: tuple[str, int]) -> None:
    assert loopback(address) == got


@pytest.mark.parametrize("address", ["0.0.0.0:80", "10.0.0.1:80", "127.0.0.1", "host:80", "127.0.0.1:99999", "127.0.0.1:x"])
def test_other_addresses_are_refused_with_an_example(address: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9180"):
        loopback(address)


def test_a_flood_of_lines_is_cut_and_counted(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(logs, "_buckets", {})
    for i in range(500):
        logs.log("test", "flood", i=i, name=b"\xff\x01")
    lines = [line for line in map(json.loads, capfd.readouterr().err.splitlines()) if line["what"] == "flood"]
    assert len(lines) == 2 * logs.RATE
    assert lines[0]["name"] == "\\xff\x01"
    now[0] += 1
    logs.log("test", "flood", i=500)
    last = json.loads(capfd.readouterr().err)
    assert last["left_out"] == 500 - 2 * logs.RATE
