"""Events: series, floods, limits."""

from __future__ import annotations

from itertools import pairwise

from forebay.kube.eventlog import BURST, KEPT, NOTE, QUIET, REFRESH, Create, EventLog, Note, Patch
from forebay.kube.objects import Reference

POD = Reference("v1", "Pod", "p", "ns", "u1")


def note(text: str = "it failed", regarding: Reference = POD) -> Note:
    return Note(regarding, "Warning", "Failed", "Mount", text)


def test_repeats_become_one_series_that_is_written_at_powers_of_two() -> None:
    log = EventLog("f.")
    assert log.say(note(), 0.0) == [Create("ns", "p.f.1", note())]
    written = [out for n in range(100) for out in log.say(note(), 1.0 + n)]
    assert [out.total for out in written if isinstance(out, Patch)] == [2, 4, 8, 16, 32, 64]
    assert log.tick(100.0) == []
    assert log.tick(100.0 + QUIET) == [Patch("ns", "p.f.1", 101, note())]
    assert log.tick(1e6) == []
    assert log.say(note(), 1e6) == [Create("ns", "p.f.2", note())]


def test_a_series_that_goes_on_is_written_before_the_server_forgets_it() -> None:
    log = EventLog("f.")
    writes = [now for now in range(0, 4 * 3600, 300) if log.say(note(), float(now))]
    assert max(b - a for a, b in pairwise(writes)) <= REFRESH


def test_a_flood_about_one_object_is_held_back_and_about_others_is_not() -> None:
    log = EventLog("f.")
    made = [out for n in range(200) for out in log.say(note(f"text {n}"), 0.0)]
    assert len(made) == BURST
    assert log.statistics().held_back == 200 - BURST
    assert log.say(note(regarding=Reference("v1", "Pod", "q", "ns", "u2")), 0.0)
    assert log.say(note("later"), 301.0)


def test_what_the_server_forgot_is_made_again() -> None:
    log = EventLog("f.")
    log.say(note(), 0.0)
    assert log.forgotten(note(), 10.0) == [Create("ns", "p.f.2", note())]


def test_an_ending_process_writes_what_is_owed() -> None:
    log = EventLog("f.")
    for now in range(7):
        log.say(note(), float(now))
    assert log.tick(7.0, ending=True) == [Patch("ns", "p.f.1", 7, note())]


def test_texts_and_names_fit_the_servers_limits() -> None:
    long = Note(Reference("v1", "Node", "n" * 250, uid="u"), "Normal", "R" * 200, "A" * 200, "ä" * 2000)
    (made,) = EventLog("18c0ffee.").say(long, 0.0)
    assert isinstance(made, Create)
    assert made.namespace == "default"
    assert len(made.name) <= 253
    assert made.name.endswith(".18c0ffee.1")
    assert len(made.note.note.encode()) <= NOTE
    assert len(made.note.reason) == len(made.note.action) == 128


def test_memory_is_bounded_and_the_oldest_series_are_paid() -> None:
    log = EventLog("f.")
    log.say(note("first"), 0.0)
    log.say(note("first"), 0.0)
    log.say(note("first"), 0.0)  # the third saying is owed
    out = []
    for n in range(KEPT):
        out = log.say(note(regarding=Reference("v1", "Pod", f"p{n}", "ns", f"u{n}")), 1.0)
    assert out[-1] == Patch("ns", "p.f.1", 3, note("first"))
