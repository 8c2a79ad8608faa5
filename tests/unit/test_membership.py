"""Member lists: what is read, what is believed, and how long."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.cache.members import membership
from forebay.cache.members.discovery import FileSource
from forebay.cache.members.membership import Fixed, Watcher, identity
from forebay.cache.members.roster import CALM, Listed, Member, Roster, join_address, parse_members, split_address

A, B, C = (str(uuid.UUID(int=i)) for i in (1, 2, 3))


def listed(data: str, id: str = "", weight: float = 0.0) -> Listed:
    return Listed(data, id, weight=weight)


# --- parsing


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        (b"- data: a:1\n- data: b:2\n", [Listed("a:1"), Listed("b:2")]),
        (b"[a:1, 'b:2']", [Listed("a:1"), Listed("b:2")]),
        (
            b'{"members": [{"data": "a:1", "id": "x", "weight": 3, "node": "n1", "control": "a:2"}]}',
            [Listed("a:1", "x", "a:2", 3.0, "n1")],
        ),
        (b"members:\n- {data: '[::1]:7', weight: '2.5'}\n", [Listed("[::1]:7", weight=2.5)]),
    ],
)
def test_lists(raw: bytes, want: list[Listed]) -> None:
    assert parse_members(raw) == want


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "no members"),
        (b"[]", "no members"),
        (b"members: {}", "no members"),
        (b"hello", "no members"),
        (b'[{"data": "a:1"', "neither YAML nor JSON"),
        (b"- data: a:1\n- da", "member 2: 'da' is no address"),
        (b"- data: a:1\n- data:", "member 2"),
        (b"- data: a", "is no address: write HOST:PORT"),
        (b"- data: a:0", "is no address"),
        (b"- data: a:70000", "is no address"),
        (b"- data: ::1:80", "is no address"),
        (b"- {data: 'a:1', control: b}", "is no address"),
        (b"- {data: 'a:1', wieght: 2}", "unknown field 'wieght'; known are data"),
        (b"- {data: 'a:1', weight: -1}", "out of range"),
        (b"- {data: 'a:1', weight: .nan}", "out of range"),
        (b"- {data: 'a:1', weight: heavy}", "member 1"),
        (b"- [a]", "member 1"),
        (b"\xff\xfe\x00", "neither YAML nor JSON"),
        (b"!!python/object:os.system {}", "neither YAML nor JSON"),
    ],
)
def test_lists_that_are_refused(raw: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as e:
        parse_members(raw)
    assert "\n" not in str(e.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_a_value_error(raw: bytes) -> None:
    with contextlib.suppress(ValueError):
        for m in parse_members(raw):
            split_address(m.data)


@pytest.mark.parametrize("text", ["a:1", "10.0.0.1:65535", "[::1]:80", "a-b.c_d:9"])
def test_addresses(text: str) -> None:
    assert join_address(*split_address(text)) == text


# --- roster


def test_a_stated_member_is_one_at_once_and_another_when_it_told_who_it_is() -> None:
    r = Roster(2.0)
    r.listed([listed("a:1", A, 5.0), listed("b:1"), listed("c:1", C)], 0.0)
    assert [m.id for m in r.members] == [A]
    assert r.unknown() == ["b:1", "c:1"]
    r.greeted("b:1", Member(B, "b:1", "b:9", 7.0, "nb"))
    r.greeted("c:1", Member(C, "c:1", "c:9", 3.0, "nc"))
    assert r.members == (Member(A, "a:1", weight=5.0), Member(B, "b:1", "b:9", 7.0, "nb"), Member(C, "c:1", "c:9", 3.0, "nc"))
    assert r.unknown() == []


def test_a_member_stays_through_a_gap_shorter_than_its_linger() -> None:
    r = Roster(2.0)
    both = [listed("a:1", A, 1.0), listed("b:1", B, 1.0)]
    r.listed(both, 0.0)
    r.listed(both[:1], 10.0)
    r.listed(both[:1], 11.9)
    assert len(r.members) == 2
    r.listed(both, 12.5)
    assert len(r.members) == 2
    assert r.linger("b:1") == 4.0, "an address that came back is held longer the next time"
    r.listed(both[:1], 20.0)
    r.listed(both[:1], 23.9)
    assert len(r.members) == 2
    r.listed(both[:1], 24.0)
    assert [m.id for m in r.members] == [A]
    r.listed(both, 30.0)
    assert len(r.members) == 2
    assert r.linger("b:1") == 8.0, "also when it had left in between"


def test_calm_is_forgiven() -> None:
    r = Roster(2.0)
    both = [listed("a:1", A, 1.0), listed("b:1", B, 1.0)]
    r.listed(both, 0.0)
    r.listed(both[:1], 1.0)
    r.listed(both, 2.0)
    assert r.linger("b:1") == 4.0
    r.listed(both, 3.0 + CALM)
    assert r.linger("b:1") == 2.0


def test_of_two_with_one_identity_the_later_is_refused_and_counted_once() -> None:
    r = Roster(2.0)
    r.listed([listed("a:1", A, 1.0)], 0.0)
    two = [listed("b:1", A, 1.0), listed("a:1", A, 1.0)]
    for t in range(3):
        r.listed(two, float(t))
    assert [m.data for m in r.members] == ["a:1"]
    assert r.duplicates == 1
    assert "b:1" in r.unknown(), "it may have been given an identity of its own"
    r.greeted("b:1", Member(A, "b:1"))
    assert r.duplicates == 1
    r.listed(two[:1], 10.0)
    r.listed(two[:1], 12.0)
    assert [m.data for m in r.members] == ["b:1"], "the first has left"


def test_a_copied_cache_directory_is_noticed_among_greetings() -> None:
    r = Roster(2.0)
    r.listed([listed("a:1"), listed("b:1")], 0.0)
    r.greeted("a:1", Member(A, "a:1"))
    r.greeted("b:1", Member(A, "b:1"))
    assert [m.data for m in r.members] == ["a:1"]
    assert r.duplicates == 1
    r.greeted("b:1", Member(B, "b:1"))
    assert [m.data for m in r.members] == ["a:1", "b:1"]
    assert r.unknown() == []


def test_whoever_is_not_whom_the_list_says_is_no_member() -> None:
    r = Roster(2.0)
    r.listed([listed("a:1", A)], 0.0)
    r.greeted("a:1", Member(B, "a:1"))
    assert r.members == ()
    r.greeted("z:1", Member(C, "z:1"))
    assert r.members == (), "an address that is not listed is not asked for"


def test_who_says_it_leaves_is_gone_at_once_and_back_when_it_greets_as_an_owner() -> None:
    roster = Roster(2.0)
    lines = [listed("a:1"), listed("b:2", B, 1.0)]
    roster.listed(lines, 0)
    roster.greeted("a:1", Member(A, "a:1"))
    assert [m.id for m in roster.members] == [A, B]
    assert roster.leave(A)
    assert roster.leave(B)
    assert not roster.leave(B)
    assert not roster.leave(C)
    assert roster.members == ()
    roster.listed(lines, 1)
    roster.listed([listed("a:1"), listed("b:2", B, 2.0)], 2)
    assert roster.members == ()  # the list alone does not take back who left
    assert roster.unknown() == ["a:1", "b:2"]
    roster.greeted("b:2", Member(B, "b:2"))
    roster.greeted("a:1", Member(A, "a:1"))
    assert [(m.id, m.weight) for m in roster.members] == [(A, 1.0), (B, 2.0)]


def test_of_two_with_one_identity_the_one_that_is_a_member_leaves() -> None:
    roster = Roster(2.0)
    roster.listed([listed("a:1"), listed("b:2")], 0)
    roster.greeted("a:1", Member(A, "a:1"))
    roster.greeted("b:2", Member(A, "b:2"))
    assert [m.data for m in roster.members] == ["a:1"]
    assert roster.leave(A)
    assert [m.data for m in roster.members] == ["b:2"]


def test_a_watcher_lets_members_leave_and_itself_and_tells_each_once(tmp_path: Path) -> None:
    path = tmp_path / "members"
    path.write_text("[a:1, b:2]")
    owns = {"a:1": True, "b:2": True}

    def hello(address: str) -> Member | None:
        return Member({"a:1": A, "b:2": B}[address], address) if owns[address] else None

    watcher = Watcher(FileSource(str(path)), hello, own=Member(A, "a:1"))
    told: list[list[str]] = []
    watcher.subscribe(lambda members: told.append([m.id for m in members]))
    watcher.look()
    assert watcher.leave(B)
    assert not watcher.leave(B)
    owns["b:2"] = False
    watcher.look()
    assert told == [[A, B], [A]]
    owns["a:1"] = False
    assert watcher.leave(A)  # its own is no longer known without asking
    watcher.look()
    assert told == [[A, B], [A], []]
    owns["b:2"] = True
    watcher.look()
    assert told == [[A, B], [A], [], [B]]


def test_who_left_untold_is_noticed_and_who_is_not_well_stays(tmp_path: Path) -> None:
    path = tmp_path / "members"
    path.write_text("[a:1, b:2, c:3]")
    ids = {"a:1": A, "b:2": B, "c:3": C}
    owns = dict.fromkeys(ids, True)
    dead: set[str] = set()
    asked: list[str] = []

    def hello(address: str) -> Member | None:
        asked.append(address)
        if address in dead:
            raise OSError("refused")
        return Member(ids[address], address) if owns[address] else None

    watcher = Watcher(FileSource(str(path)), hello, own=Member(A, "a:1"))
    watcher.look()
    asked.clear()
    watcher.ask_again()
    watcher.ask_again()
    watcher.ask_again()
    assert asked == ["b:2", "c:3", "b:2"]
    owns["c:3"] = False
    dead.add("b:2")
    watcher.ask_again()
    watcher.ask_again()
    assert [m.id for m in watcher.current()] == [A, B]
    Watcher(FileSource(str(path)), hello).ask_again()  # nobody is known yet


def test_a_changed_line_changes_its_member() -> None:
    r = Roster(2.0)
    r.listed([listed("a:1", A, 1.0)], 0.0)
    r.listed([listed("a:1", A, 4.0)], 1.0)
    assert [(m.id, m.weight) for m in r.members] == [(A, 4.0)]
    r.listed([listed("a:1", B, 4.0)], 2.0)
    assert [m.id for m in r.members] == [B]
    r.listed([listed("a:1")], 3.0)
    assert [m.id for m in r.members] == [B]


addresses = st.sampled_from(["a:1", "b:1", "c:1", "d:1"])
ids = st.sampled_from([A, B, C])
events = st.lists(
    st.tuples(
        st.floats(0.0, 40.0),
        st.one_of(st.lists(st.tuples(addresses, st.one_of(st.just(""), ids)), max_size=4), st.tuples(addresses, ids)),
    ),
    max_size=25,
)


@settings(max_examples=300)
@given(events)
def test_whatever_comes_no_identity_is_twice_and_nobody_leaves_early(steps: list[tuple[float, object]]) -> None:
    r = Roster(5.0)
    now = 0.0
    seen: dict[str, float] = {}
    for gap, what in steps:
        now += gap
        before = {m.data: m.id for m in r.members}
        if isinstance(what, list):
            r.listed([listed(a, i, 1.0 if i else 0.0) for a, i in what], now)
            lines = dict(reversed(what))  # of two lines with one address the first counts
            seen.update(dict.fromkeys(lines, now))
            for address in before.keys() - {m.data for m in r.members}:
                if address in lines:
                    assert lines[address] not in ("", before[address]), "its line names another identity now"
                else:
                    assert now - seen[address] >= 5.0
        else:
            r.greeted(what[0], Member(what[1], what[0]))
        assert len({m.id for m in r.members}) == len(r.members)
        assert [m.id for m in r.members] == sorted(m.id for m in r.members)
        assert {m.data for m in r.members} <= seen.keys()


# --- sources


def test_a_watcher_learns_tells_and_keeps_dead_addresses(tmp_path: Path) -> None:
    path = tmp_path / "members"
    path.write_text("- a:1\n- b:1\n- me:1\n")
    up = {"a:1": Member(A, "a:1", weight=2.0)}

    def hello(address: str) -> Member | None:
        if address not in up:
            raise ConnectionRefusedError(address)
        return up[address]

    told: list[list[str]] = []
    w = Watcher(FileSource(str(path)), hello, own=Member(C, "me:1"))
    w.subscribe(lambda ms: told.append([m.id for m in ms]))
    w.look(0.0)
    assert [m.id for m in w.current()] == [A, C]
    up["b:1"] = Member(B, "b:1")
    w.look(1.0)
    assert [m.id for m in w.current()] == [A, B, C]
    up.clear()
    for t in range(2, 200):
        w.look(float(t))
    assert [m.id for m in w.current()] == [A, B, C], "health is not membership"
    assert told == [[A, C], [A, B, C]]


def test_a_watcher_runs_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "members"
    path.write_text("- a:1\n")
    changed = threading.Event()

    def hello(address: str) -> Member | None:
        if address == "b:1":
            raise RuntimeError("a defect does not end the watch")
        return Member(A if address == "a:1" else C, address)

    w = Watcher(FileSource(str(path), every=0.05), hello)
    w.start()
    try:
        assert [m.id for m in w.current()] == [A]
        w.subscribe(lambda ms: changed.set() if len(ms) == 2 else None)
        path.write_text("- a:1\n- b:1\n")
        time.sleep(0.3)
        path.write_text("- a:1\n- c:1\n")
        assert changed.wait(60)
    finally:
        w.close(60)
    assert not [t for t in threading.enumerate() if t.name == "forebay-members"]


def test_dead_addresses_do_not_keep_the_others_from_being_greeted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "GREETING", 0.05)
    path = tmp_path / "members"
    path.write_text("".join(f"- dead{i}:1\n" for i in range(20)) + "- a:1\n")

    def hello(address: str) -> Member | None:
        if address == "a:1":
            return Member(A, address)
        time.sleep(0.02)
        raise TimeoutError(address)

    w = Watcher(FileSource(str(path)), hello)
    for _ in range(21):  # each goes on where the last one ended, by one address where the machine is slow
        w.look()
    assert [m.id for m in w.current()] == [A]


def test_a_client_tier_in_the_list_is_no_member(tmp_path: Path) -> None:
    path = tmp_path / "members"
    path.write_text("- a:1\n")
    w = Watcher(FileSource(str(path)), lambda address: None)
    w.look()
    assert w.current() == ()


def test_a_fixed_list() -> None:
    assert [m.id for m in Fixed([Member(B, "b:1"), Member(A, "a:1")]).current()] == [A, B]


# --- identity


def test_an_identity_is_made_once(tmp_path: Path) -> None:
    where = str(tmp_path / "index")
    first, before = identity(where)
    assert not before
    assert str(uuid.UUID(first)) == first
    assert identity(where) == (first, True)
    assert stat.S_IMODE(os.stat(f"{where}/identity").st_mode) == 0o600
    assert os.listdir(where) == ["identity"]


def test_two_at_once_get_one_identity(tmp_path: Path) -> None:
    got: list[str] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        got.append(identity(str(tmp_path))[0])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(got)) == 1
    assert len(got) == 8


def test_a_damaged_identity_is_not_replaced_in_silence(tmp_path: Path) -> None:
    (tmp_path / "identity").write_text("junk\n")
    with pytest.raises(ValueError, match="restore it, or remove it"):
        identity(str(tmp_path))
