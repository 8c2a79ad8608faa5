"""Idle cores are kept from halting by a descriptor of /dev/cpu_dma_latency, and only while it pays."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from forebay.cache.fetch import awake
from forebay.cache.fetch.awake import ANY, LIGHT_SLEEP, NEVER_HALT, SWITCH, Awake


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpu_dma_latency"
    path.touch()
    monkeypatch.setattr(awake, "DEVICE", path)
    return path


def written(device: Path) -> list[int]:
    return [n for (n,) in struct.iter_unpack("i", device.read_bytes())]


@pytest.mark.parametrize(("driver", "bound"), [("haltpoll", NEVER_HALT), ("intel_idle", LIGHT_SLEEP), (None, LIGHT_SLEEP)])
def test_a_guest_polls_and_bare_metal_sleeps_lightly(
    device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str | None, bound: int
) -> None:
    monkeypatch.setattr(awake, "DRIVER", tmp_path / "driver")
    if driver is not None:
        (tmp_path / "driver").write_text(driver + "\n")
    a = Awake()
    assert a.why == ""
    assert written(device) == [], "opening alone asks for nothing"
    a.hold()
    a.hold()
    a.release()
    a.release()
    a.hold(wanted=True)
    a.close()
    a.close()
    assert written(device) == [bound, ANY, bound], "one write for each change"


def test_without_the_right_nothing_happens_and_the_reason_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awake, "DEVICE", tmp_path / "missing")
    a = Awake()
    a.hold()
    a.release()
    a.close()
    assert a.why == f"{tmp_path / 'missing'}: No such file or directory"


def test_it_can_be_switched_off(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    a = Awake()
    a.hold()
    assert a.why == f"switched off by {SWITCH}"
    assert written(device) == []
