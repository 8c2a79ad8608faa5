"""Where member lists come from: files that are written while they are read, and names."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.cache import log as logs
from forebay.cache.members.discovery import DnsSource, FileSource, open_source
from forebay.cache.members.roster import Listed


def test_a_file_is_read_again_when_it_changed_and_held_still(tmp_path: Path) -> None:
    path = tmp_path / "members.yaml"
    path.write_text("- data: a:1\n")
    s = FileSource(str(path))
    assert s.read() == [Listed("a:1")]
    path.write_text("- data: a:1\n- data: b:1\n")
    assert s.read() == [Listed("a:1")], "it may be half-written"
    assert s.read() == [Listed("a:1"), Listed("b:1")]


def test_a_writer_that_is_caught_in_the_middle_drops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "members.yaml"
    whole = "- data: a:1\n- data: b:1\n- data: c:1\n"
    path.write_text(whole)
    s = FileSource(str(path))
    good = s.read()
    for cut in range(0, len(whole), 3):
        path.write_text(whole[:cut])
        assert s.read() == good
    path.write_text(whole)
    assert s.read() == good
    assert s.read() == good


@pytest.mark.parametrize("bad", ["", "- da", "{", "- data: nonsense\n"])
def test_a_broken_file_keeps_the_last_good_list(
    tmp_path: Path, bad: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_buckets", {})  # what other tests said of lists in this second leaves no line out
    path = tmp_path / "members.yaml"
    path.write_text("- data: a:1\n")
    s = FileSource(str(path))
    s.read()
    path.write_text(bad)
    for _ in range(4):
        assert s.read() == [Listed("a:1")]
    assert s.errors == 1
    assert "last good list stands" in s.error
    assert capfd.readouterr().err.count("list_unusable") == 1
    path.unlink()
    assert s.read() == [Listed("a:1")]
    path.write_text("- data: b:1\n")
    s.read()
    assert s.read() == [Listed("b:1")]
    assert s.error == ""


def test_a_file_that_was_never_there(tmp_path: Path) -> None:
    path = tmp_path / "none"
    s = FileSource(str(path))
    assert s.read() is None
    path.write_text("- a:1")
    assert s.read() == [Listed("a:1")], "the first list is taken at once"


def test_names_are_resolved_again_and_a_failure_says_nothing() -> None:
    answers: list[list[str] | OSError] = [["10.0.0.2", "10.0.0.10", "10.0.0.2"], OSError("no answer"), ["::1"]]

    def resolve(name: str, port: int) -> list[str]:
        assert (name, port) == ("workers", 7001)
        a = answers.pop(0)
        if isinstance(a, OSError):
            raise a
        return a

    s = DnsSource("workers", 7001, resolve=resolve)
    assert s.read() == [Listed("10.0.0.2:7001"), Listed("10.0.0.10:7001")]
    assert s.read() is None
    assert "last members stand" in s.error
    assert s.read() == [Listed("[::1]:7001")]
    assert s.error == ""


def test_a_name_of_this_machine() -> None:
    s = DnsSource("localhost", 7001)
    got = s.read()
    assert got
    assert {m.data for m in got} <= {"127.0.0.1:7001", "[::1]:7001"}
    bad = DnsSource("no-such-host.invalid", 1)
    assert bad.read() is None
    assert bad.errors == 1


@pytest.mark.parametrize(
    ("text", "kind"), [("file:/etc/m.yaml", FileSource), ("/etc/m.yaml", FileSource), ("dns:workers.svc:7001", DnsSource)]
)
def test_sources(text: str, kind: type) -> None:
    assert isinstance(open_source(text), kind)


@pytest.mark.parametrize("text", ["", "file:", "dns:", "dns:name", "dns:name:x"])
def test_sources_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        open_source(text)


# --- watcher
