"""Where a member list comes from: a file, which a node plugin or a person keeps, or the addresses of a name."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from forebay.cache.log import log
from forebay.cache.members.roster import MOST_MEMBERS, Listed, join_address, parse_members, split_address

FILE_EVERY, DNS_EVERY = 1.0, 3.0
"""Seconds between looks at the list."""
FILE_LINGER, DNS_LINGER = 2.0, 12.0
"""Seconds an address must be missing from the list before it leaves. Resolvers answer with part of the truth more often
than files do."""


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
