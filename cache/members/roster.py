"""Who is in the cluster, from a list that somebody else keeps, made stable and complete. Pure.

The list says who belongs; health is another matter (`route.Health`): a member that does not answer keeps its place, or
every hiccup would move its bytes. Invariants of `Roster`:

- a member leaves only when the list was without it for its `linger`, which doubles each time the same address comes back;
- an identity belongs to one address: the later of two is refused, counted, and taken when the first has left;
- an address whose identity is unknown is no member yet, but stays asked for;
- a member that says it leaves (it was drained) is none from then on, listed or not, until it greets as an owner again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
import yaml

from forebay.cache.log import log

MOST_MEMBERS = 4096
MOST_BYTES = 1 << 20
MOST_LINGER = 120.0
"""Seconds an address that keeps coming back may be missing at most before it leaves."""
CALM = 300.0
"""Seconds without coming and going after which an address is no longer held to flap."""
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})\Z")


class Member(msgspec.Struct, frozen=True):
    """A worker that owns segments."""

    id: str  # UUID in its cache directory
    data: str  # "host:port" of the data port
    control: str = ""  # "host:port" of the control door, "" when unknown
    weight: float = 1.0  # share of the bytes, in any unit that all use
    node: str = ""  # name of its node, for people


class Listed(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a member list. What is not stated is learned from the member itself."""

    data: str
    id: str = ""
    control: str = ""
    weight: float = 0.0
    node: str = ""


def split_address(text: str) -> tuple[str, int]:
    """Host (IPv6 without brackets) and port of "host:port". Raises `ValueError` with a sentence."""
    match = _ADDRESS.match(text)
    if match is None or not 0 < int(match[2]) < 65536:
        raise ValueError(f"{text[:80]!r} is no address: write HOST:PORT, with an IPv6 address in brackets")
    return match[1].strip("[]"), int(match[2])


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_members(raw: bytes) -> list[Listed]:
    """A member list in YAML or JSON: a list, or a mapping with `members`. Raises `ValueError` with a sentence."""
    if len(raw) > MOST_BYTES:
        raise ValueError(f"over {MOST_BYTES >> 10} KiB: this is no member list")
    try:
        tree = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as e:
        raise ValueError(f"neither YAML nor JSON: {' '.join(str(e).split())[:200]}") from e
    if isinstance(tree, dict):
        tree = tree.get("members")
    if not isinstance(tree, list) or not tree:
        raise ValueError("no members: write a list of mappings, each with `data: HOST:PORT`")
    if len(tree) > MOST_MEMBERS:
        raise ValueError(f"{len(tree)} members, at most {MOST_MEMBERS} make sense")
    out: list[Listed] = []
    for n, item in enumerate(tree, 1):
        if isinstance(item, str):
            item = {"data": item}
        try:
            if isinstance(item, dict) and (unknown := item.keys() - set(Listed.__struct_fields__)):
                raise ValueError(
                    f"unknown field {sorted(map(str, unknown))[0]!r}; known are {', '.join(Listed.__struct_fields__)}"
                )
            one = msgspec.convert(item, Listed, strict=False)
            split_address(one.data)
            if one.control:
                split_address(one.control)
            if not 0 <= one.weight < 1e18:
                raise ValueError(f"weight {one.weight} is out of range: write a positive number")
        except (msgspec.ValidationError, ValueError) as e:
            raise ValueError(f"member {n}: {e}") from e
        out.append(one)
    return out


class _Known(msgspec.Struct):
    listed: Listed
    order: int
    member: Member | None = None
    missing_since: float | None = None
    returns: int = 0
    changed: float = 0.0
    left: bool = False  # it said that it leaves: no member until it greets as one again


class Roster:
    """Lists and greetings in, members out. Pure: `now` comes with each event, seconds of any steady clock."""

    def __init__(self, linger: float) -> None:
        self._linger = linger
        self._known: dict[str, _Known] = {}  # address -> what is known of it
        self._past: dict[str, tuple[int, float]] = {}  # address that left -> (returns, when)
        self._next = 0
        self._refused: dict[str, str] = {}  # address refused for its identity -> that identity
        self.duplicates = 0
        self.members: tuple[Member, ...] = ()

    def listed(self, entries: Iterable[Listed], now: float) -> None:
        """The list as it stands now, complete."""
        seen: set[str] = set()
        for entry in entries:
            if entry.data in seen:
                continue
            seen.add(entry.data)
            known = self._known.get(entry.data)
            if known is None:
                returns, left = self._past.pop(entry.data, (-1, now))
                returns = 0 if now - left > CALM else returns + 1
                self._known[entry.data] = _Known(entry, self._next, returns=returns, changed=now)
                self._next += 1
                known = self._known[entry.data]
            elif known.missing_since is not None:
                known.missing_since = None
                known.returns += 1
                known.changed = now
            elif known.returns and now - known.changed > CALM:
                known.returns = 0
            if known.listed != entry:
                known.listed = entry
                if known.member is not None:
                    known.member = _complete(entry, known.member) if entry.id in ("", known.member.id) else None
            if known.member is None and entry.id and entry.weight > 0 and not known.left:
                known.member = Member(entry.id, entry.data, entry.control, entry.weight, entry.node)
        for address, known in list(self._known.items()):
            if address in seen:
                continue
            if known.missing_since is None:
                known.missing_since = now
            if now - known.missing_since >= self.linger(address):
                del self._known[address]
                if len(self._past) < MOST_MEMBERS:
                    self._past[address] = (known.returns, now)
        self._settle()

    def linger(self, address: str) -> float:
        """Seconds an address has to be missing before it leaves."""
        known = self._known.get(address)
        return min(self._linger * 2.0 ** min(known.returns if known else 0, 16), max(MOST_LINGER, self._linger))

    def unknown(self) -> list[str]:
        """Addresses whose identity has to be asked for, those refused for theirs included: they may have a new one."""
        return [a for a, k in self._known.items() if k.member is None or a in self._refused]

    def greeted(self, address: str, member: Member) -> None:
        """An address told who it is. What the list states stands over what it says of itself, save its identity."""
        known = self._known.get(address)
        if known is None:
            return
        if known.listed.id and known.listed.id != member.id:
            if self._refused.get(address) != member.id:
                self._refused[address] = member.id
                log("membership", "wrong_identity", address=address, listed=known.listed.id, is_now=member.id)
            return
        known.member = _complete(known.listed, member)
        known.left = False
        self._settle()

    def leave(self, identity: str) -> bool:
        """A member says that it gave its bytes away and leaves. False when it is none."""
        for known in self._known.values():
            if known.member is not None and known.member.id == identity and known.listed.data not in self._refused:
                known.member = None
                known.left = True
                self._settle()
                return True
        return False

    def _settle(self) -> None:
        taken: dict[str, str] = {}
        members: list[Member] = []
        refused: dict[str, str] = {}
        held = {m.id: m.data for m in self.members}
        # who holds an identity keeps it; among the others the earlier in the list
        order = sorted(self._known.values(), key=lambda k: (k.member is None or held.get(k.member.id) != k.listed.data, k.order))
        for known in order:
            m = known.member
            if m is None:
                continue
            if m.id in taken:
                refused[m.data] = m.id
                if self._refused.get(m.data) != m.id:
                    self.duplicates += 1
                    log("membership", "duplicate_identity", id=m.id, kept=taken[m.id], refused=m.data)
                continue
            taken[m.id] = m.data
            members.append(m)
        self._refused = refused
        self.members = tuple(sorted(members, key=lambda m: m.id))


def _complete(listed: Listed, member: Member) -> Member:
    return Member(
        member.id, listed.data, listed.control or member.control, listed.weight or member.weight, listed.node or member.node
    )
