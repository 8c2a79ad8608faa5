"""Who is in the cluster: a list that somebody else keeps (a file, DNS, later EndpointSlices), made stable and complete.

The list says who belongs; health is another matter (`route.Health`): a member that does not answer keeps its place, or
every hiccup would move its bytes. Invariants of `Roster`, which is pure:

- a member leaves only when the list was without it for its `linger`, which doubles each time the same address comes back;
- an identity belongs to one address: the later of two is refused, counted, and taken when the first has left;
- an address whose identity is unknown is no member yet, but stays asked for;
- a member that says it leaves (it was drained) is none from then on, listed or not, until it greets as an owner again.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import yaml

from forebay.cache.log import log

MOST_MEMBERS = 4096
MOST_BYTES = 1 << 20
FILE_EVERY, DNS_EVERY = 1.0, 3.0
"""Seconds between looks at the list."""
FILE_LINGER, DNS_LINGER, MOST_LINGER = 2.0, 12.0, 120.0
"""Seconds an address must be missing from the list before it leaves. Resolvers answer with part of the truth more often
than files do."""
GREETING = 5.0
"""Seconds of one look spent on greeting addresses."""
AGAIN = 5.0
"""Seconds between greetings of members, one at a time: one that was drained may not have reached everybody."""
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


class Source(Protocol):
    """Where a list comes from."""

    every: float  # seconds between looks
    linger: float

    def read(self) -> list[Listed] | None:
        """The list as it stands, None when nothing new can be said. Blocks for seconds at most, and never raises."""
        ...


class FileSource:
    """`file:PATH`: read again when it changed and then held still for one look, so that half of a write is not believed.

    A file that is broken or gone says nothing: the last good list stands.
    """

    def __init__(self, path: str, every: float = FILE_EVERY, linger: float = FILE_LINGER) -> None:
        self.path = path
        self.every = every
        self.linger = linger
        self.errors = 0
        self.error = ""
        self._last: list[Listed] | None = None
        self._seen: tuple[int, ...] = ()
        self._read: tuple[int, ...] = ()

    def read(self) -> list[Listed] | None:
        try:
            info = os.stat(self.path)
            now = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            # the first list is taken as it is: without one there is nothing to keep
            if now != self._read and (now == self._seen or self._last is None):
                self._read = now
                self._last = parse_members(Path(self.path).read_bytes())
                self._say("")
            self._seen = now
        except (OSError, ValueError) as e:
            self._say(f"{self.path}: {e}; the last good list stands")
        return self._last

    def _say(self, error: str) -> None:
        if error and error != self.error:
            self.errors += 1
            log("membership", "list_unusable", error=error)
        self.error = error


class DnsSource:
    """`dns:NAME:PORT`: every address the name has, resolved again each few seconds. A failure says nothing."""

    def __init__(
        self,
        name: str,
        port: int,
        every: float = DNS_EVERY,
        linger: float = DNS_LINGER,
        resolve: Callable[[str, int], list[str]] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.every = every
        self.linger = linger
        self.errors = 0
        self.error = ""
        self._resolve = resolve or _addresses

    def read(self) -> list[Listed] | None:
        try:
            hosts = self._resolve(self.name, self.port)
        except OSError as e:
            self.errors += 1
            if not self.error:
                log("membership", "name_unresolved", name=self.name, error=str(e))
            self.error = f"{self.name}: {e}; the last members stand"
            return None
        self.error = ""
        return [Listed(join_address(h, self.port)) for h in sorted(set(hosts), key=_by_number)][:MOST_MEMBERS]


def _by_number(host: str) -> tuple[int, int]:
    ip = ipaddress.ip_address(host.partition("%")[0])
    return ip.version, int(ip)


def _addresses(name: str, port: int) -> list[str]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for family, _, _, _, address in found if family in (socket.AF_INET, socket.AF_INET6)]


def open_source(text: str) -> FileSource | DnsSource:
    """`file:PATH`, a plain PATH, or `dns:NAME:PORT`. Raises `ValueError` with a sentence."""
    kind, _, rest = text.partition(":")
    if kind == "dns":
        name, port = split_address(rest)
        return DnsSource(name, port)
    path = rest if kind == "file" else text
    if not path:
        raise ValueError(f"{text!r} names no member list: write file:PATH or dns:NAME:PORT")
    return FileSource(path)


class Membership(Protocol):
    """What placement and clients ask."""

    def current(self) -> tuple[Member, ...]:
        """Members as known now, ordered by identity."""
        ...

    def subscribe(self, changed: Callable[[tuple[Member, ...]], None]) -> None:
        """Have `changed` called, from any thread, with each new list."""
        ...


class Fixed:
    """A list that never changes."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = tuple(sorted(members, key=lambda m: m.id))

    def current(self) -> tuple[Member, ...]:
        return self._members

    def subscribe(self, changed: Callable[[tuple[Member, ...]], None]) -> None:
        return


class Watcher:
    """A list watched by one thread. `hello(address)` asks an address who it is and raises OSError or returns None if it
    does not say; `own` is known without asking."""

    def __init__(self, source: Source, hello: Callable[[str], Member | None], own: Member | None = None) -> None:
        self.source = source
        self.roster = Roster(source.linger)
        self._hello = hello
        self._own = own
        self._lock = threading.Lock()
        self._subscribers: list[Callable[[tuple[Member, ...]], None]] = []
        self._members: tuple[Member, ...] = ()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._change = threading.RLock()  # the roster, and telling what came of it in order
        self._turn = 0  # where the greetings of the next look begin
        self._again = time.monotonic() + AGAIN
        self._asked = ""  # the member greeted last

    def current(self) -> tuple[Member, ...]:
        return self._members

    def subscribe(self, changed: Callable[[tuple[Member, ...]], None]) -> None:
        with self._lock:
            self._subscribers.append(changed)

    def start(self) -> None:
        """Look once, then go on looking in a thread until `close`."""
        self.look()
        self._thread = threading.Thread(target=self._run, name="forebay-members", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 2.0) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def look(self, now: float | None = None) -> None:
        """One look at the list, and greetings for addresses whose identity is unknown."""
        entries = self.source.read()
        with self._change:
            if entries is not None:
                self.roster.listed(entries, time.monotonic() if now is None else now)
            unknown = self.roster.unknown()
        until = time.monotonic() + GREETING
        for n in range(len(unknown)):
            address = unknown[(self._turn + n) % len(unknown)]
            if self._stop.is_set():
                return
            if time.monotonic() > until:  # dead addresses take a second each: the next look goes on from here
                self._turn += n
                break
            if self._own is not None and address == self._own.data:
                self._greeted(address, self._own)
                continue
            try:
                member = self._hello(address)
            except OSError:
                continue  # not up yet, or gone: asked again at the next look
            if member is not None:
                self._greeted(address, member)
        self._tell()
        if time.monotonic() >= self._again:
            self._again = time.monotonic() + AGAIN
            self.ask_again()

    def ask_again(self) -> None:
        """Greet the next member: one that owns nothing any more leaves, though it could not say so."""
        others = [m for m in self._members if self._own is None or m.id != self._own.id]
        if not others:
            return
        member = next((m for m in others if m.id > self._asked), others[0])
        self._asked = member.id
        try:
            owns = self._hello(member.data) is not None
        except OSError:
            return  # not well: that is no leaving
        if not owns:
            self.leave(member.id)

    def leave(self, identity: str) -> bool:
        """A member says that it leaves, and does so at once; this one, when it is its own. False when it was none."""
        with self._change:
            if self._own is not None and self._own.id == identity:
                self._own = None
            left = self.roster.leave(identity)
        if left:
            log("membership", "left", id=identity)
            self._tell()
        return left

    def _greeted(self, address: str, member: Member) -> None:
        with self._change:
            self.roster.greeted(address, member)

    def _tell(self) -> None:
        with self._change:
            if self.roster.members == self._members:
                return
            self._members = self.roster.members
            log("membership", "changed", members=len(self._members), addresses=[m.data for m in self._members][:32])
            with self._lock:
                subscribers = list(self._subscribers)
            for changed in subscribers:
                changed(self._members)

    def _run(self) -> None:
        while not self._stop.wait(self.source.every):
            try:
                self.look()
            except Exception as e:  # noqa: BLE001 - the list must go on being watched, whatever a greeting brings
                log("membership", "look_failed", error=f"{type(e).__name__}: {e}")


def identity(index_dir: str) -> tuple[str, bool]:
    """This worker's UUID, made once in `index_dir/identity`, and whether it was there before.

    Raises `ValueError` when the file holds no UUID: a new identity would move all its bytes.
    """
    path = os.path.join(index_dir, "identity")
    os.makedirs(index_dir, mode=0o700, exist_ok=True)
    for _ in range(2):
        try:
            text = Path(path).read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            fd, fresh = tempfile.mkstemp(prefix="identity.", dir=index_dir)  # mode 0600
            try:
                os.write(fd, f"{uuid.uuid4()}\n".encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            try:
                os.link(fresh, path)  # who comes second finds the first one's
                made = True
            except FileExistsError:
                made = False
            os.unlink(fresh)
            if made:
                return Path(path).read_text(encoding="ascii").strip(), False
            continue
        try:
            return str(uuid.UUID(text)), True
        except ValueError as e:
            raise ValueError(f"{path} holds no UUID: restore it, or remove it and the worker joins as a new member") from e
    raise ValueError(f"{path} cannot be read or made: check the directory")
