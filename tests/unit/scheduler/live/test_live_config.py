"""Settings of the live scheduler: every mistake is named with a remedy; a bad file changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.scheduler.live import config
from forebay.scheduler.live.config import Configuration, ConfigurationError, Reloader


def test_an_empty_file_is_the_default() -> None:
    assert config.read("", "f") == Configuration()
    assert config.read("{}", "f") == Configuration()


def test_fields_are_read() -> None:
    made = config.read("schedulerName: gpu\nbackoff: {firstSeconds: 2}\ngangs: {partial: Delete}\ngpuMemUnit: MiB\n", "f")
    assert made.scheduler_name == "gpu"
    assert made.backoff.first_seconds == 2
    assert made.gangs.partial == "Delete"
    assert made.devices.unit == 1 << 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", ("f: is no YAML",)),
        ("3", ("f: holds no fields", "schedulerName: forebay")),
        ("schedulername: x", ('"schedulername" is no setting', 'did you mean "schedulerName"')),
        ("gangs: {repairSecond: 3}", ('gangs."repairSecond" is no setting', 'did you mean "repairSeconds"')),
        ("bindThreads: many", ("bindThreads", "Expected `int`")),
        ("bindThreads: 0", ("bindThreads 0", "1 to 256")),
        ("gangs: {partial: Evict}", ("gangs.partial", "Evict")),
        ("policy: fgdd", ("policy", 'did you mean "fgd"')),
        ("schedulerName: default-scheduler", ("kube-scheduler's",)),
        ("schedulerName: Big One", ("lower case",)),
        ("qps: 5\nburst: 0", ("lets nothing through",)),
        ("backoff: {firstSeconds: 20}", ("backoff.firstSeconds 20", "longestSeconds 10")),
        ("flushSeconds: 0", ("flushSeconds 0", "above 0")),
        ("fill: {nodes: pack}", ("fill.nodes", "pack")),
        ("unhealthyGpus: Kube System", ("unhealthyGpus", "is no namespace")),
    ],
)
def test_a_mistake_is_named(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config.read(text, "f")
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_changes(tmp_path: Path) -> None:
    file, said = tmp_path / "s.yaml", list[tuple[Configuration | None, str]]()
    file.write_text("policy: packing\n")
    reloader = Reloader(file, file.read_text(), lambda good, sentence: said.append((good, sentence)))
    reloader.look()
    assert not said
    file.write_text("policy: nope\n")
    reloader.look()
    reloader.look()
    assert len(said) == 1  # told once
    assert said[0][0] is None
    assert "the settings stay as they are" in said[0][1]
    file.unlink()
    reloader.look()
    reloader.look()
    assert len(said) == 2
    assert said[1][0] is None
    assert "cannot be read" in said[1][1]
    file.write_text("policy: fgd\n")
    reloader.look()
    assert said[2][0] == Configuration(policy="fgd")


def test_what_counts_from_the_start_is_named() -> None:
    changed = config.changed_for_nothing(Configuration(), Configuration(bind_threads=3, policy="fgd", gpu_mem_unit="MiB"))
    assert changed == ["bindThreads", "gpuMemUnit"]
