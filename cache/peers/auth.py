"""Who may ask: an HMAC-SHA256 over each request, and one over the head of each answer. Pure, but for reading the secret.

The key is the dataset's secret, bound to the dataset's name. A request's signature covers method, path, every header that
matters, the hash of its body, a time and a number used once; an answer's covers that signature, its status and its framing,
so that only a holder of the secret can be taken for a member. Bytes themselves are checksummed, not signed: who can change
packets between nodes is kept out by the network (TLS or WireGuard), as docs/cluster.md says.

Replay: a caller counts its requests, and a port remembers for each caller a window of numbers, as IPsec does (RFC 4303,
3.4.3); it is bounded however many requests come, and only who knows the secret gets a place in it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

SECRET_LEAST = 32
WINDOW = 30.0
"""Seconds a request's time may differ from the port's clock."""
NUMBERS = 4096
"""A request may overtake so many others of the same caller; later it has to be signed again."""
CALLERS = 4096
EMPTY = hashlib.sha256(b"").hexdigest()

_AUTH = re.compile(r"FB1 t=(\d{1,15}),n=([0-9a-f]{32}):(\d{1,18}),b=([0-9a-f]{64}),s=([0-9a-f]{64})\Z", re.ASCII)


class AuthError(Exception):
    """A request or an answer that does not prove what it has to; a sentence that names the remedy, never the secret."""


class Signed(msgspec.Struct, frozen=True):
    """What a signature covers. `headers`: object, range, mode and the identity of the member meant, "" where absent."""

    method: str
    target: str
    headers: tuple[str, ...] = ()
    body: str = EMPTY  # sha256 in hex


def load_secret(path: str) -> bytes:
    """The secret in a file, without a final line end. Raises `ValueError` with a sentence, which does not show it."""
    try:
        with open(path, "rb") as f:
            info = os.fstat(f.fileno())
            raw = f.read(4097).rstrip(b"\r\n")
    except OSError as e:
        raise ValueError(
            f"the secret file {path} cannot be read ({e.strerror}): make one with `head -c 32 /dev/urandom | xxd -p -c 64`"
        ) from e
    if stat.S_IMODE(info.st_mode) & 0o027:
        raise ValueError(f"the secret file {path} is open to others: chmod 600 {path}")
    if not SECRET_LEAST <= len(raw) <= 4096:
        raise ValueError(f"the secret in {path} has {len(raw)} bytes: it needs {SECRET_LEAST} to 4096 random ones")
    return raw


def make_secret(path: str) -> bytes:
    """The secret in a file, made (mode 0600) if there is none yet."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return load_secret(path)
    with os.fdopen(fd, "wb") as f:
        f.write(os.urandom(SECRET_LEAST).hex().encode() + b"\n")
    return load_secret(path)


class Key:
    """The signing key of one dataset. Its repr shows nothing of it."""

    __slots__ = ("_key", "dataset")

    def __init__(self, secret: bytes, dataset: str) -> None:
        if len(secret) < SECRET_LEAST:
            raise ValueError(f"a secret of {len(secret)} bytes: it needs {SECRET_LEAST} random ones")
        self.dataset = dataset
        self._key = hmac.digest(secret, b"forebay data port 1\0" + dataset.encode(), "sha256")

    def __repr__(self) -> str:
        return f"Key(dataset={self.dataset!r})"

    def sign(self, request: Signed, time_ms: int, number: str) -> str:
        """In hex."""
        text = "\n".join(("FB1", request.method, request.target, *request.headers, request.body, str(time_ms), number))
        return hmac.digest(self._key, text.encode("latin-1", "replace"), "sha256").hex()

    def proof(self, signature: str, status: int, framing: str) -> str:
        """What an answer to the request with that signature shows in `X-Forebay-Proof`, in hex."""
        return hmac.digest(self._key, f"answer\n{signature}\n{status}\n{framing}".encode(), "sha256").hex()

    def check_proof(self, proof: str, signature: str, status: int, framing: str) -> bool:
        return hmac.compare_digest(proof.encode(), self.proof(signature, status, framing).encode())


class Signer:
    """Numbers and signs the requests of one process. Thread-safe. `clock` is seconds since the epoch."""

    def __init__(self, key: Key, clock: Callable[[], float]) -> None:
        self.key = key
        self._clock = clock
        self._caller = os.urandom(16).hex()
        self._lock = threading.Lock()
        self._count = 0

    def header(self, request: Signed) -> tuple[str, str]:
        """The value of `X-Forebay-Auth` and the signature in it."""
        with self._lock:
            self._count += 1
            number = f"{self._caller}:{self._count}"
        now = int(self._clock() * 1000)
        signature = self.key.sign(request, now, number)
        return f"FB1 t={now},n={number},b={request.body},s={signature}", signature


class _Caller:
    __slots__ = ("last", "seen", "top")

    def __init__(self) -> None:
        self.top = 0
        self.seen = 0  # bit i: number top - i was used
        self.last = 0.0


class ReplayWindow:
    """Numbers used, a window for each caller. Not thread-safe. Full of callers heard in the last minute, it takes no new one."""

    def __init__(self, callers: int = CALLERS, numbers: int = NUMBERS, keep: float = 2 * WINDOW) -> None:
        self._callers: dict[str, _Caller] = {}
        self._most = callers
        self._mask = (1 << numbers) - 1
        self._numbers = numbers
        self._keep = keep

    def __len__(self) -> int:
        return len(self._callers)

    def use(self, caller: str, number: int, now: float) -> bool:
        """Whether the number was not used before; it is now. False as well when that can no longer be told."""
        c = self._callers.get(caller)
        if c is None:
            if len(self._callers) >= self._most and not self._forget(now):
                return False
            c = self._callers[caller] = _Caller()
        c.last = now
        if number > c.top:
            shift = number - c.top
            c.seen = ((c.seen << shift) & self._mask if shift < self._numbers else 0) | 1
            c.top = number
            return True
        behind = c.top - number
        if behind >= self._numbers or c.seen >> behind & 1:
            return False
        c.seen |= 1 << behind
        return True

    def _forget(self, now: float) -> bool:
        """Drop callers not heard of for so long that nothing they signed is in time any more."""
        old = [name for name, c in self._callers.items() if now - c.last > self._keep]
        for name in old:
            del self._callers[name]
        return bool(old)


class Verifier:
    """Checks requests. Thread-safe. `clock` is seconds since the epoch."""

    def __init__(self, key: Key, clock: Callable[[], float]) -> None:
        self.key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._used = ReplayWindow()

    def check(self, header: str, request: Signed) -> str:
        """The signature of a good request. `request.body` is taken from the header: the caller compares it with the body.

        Raises `AuthError`.
        """
        match = _AUTH.match(header)
        if match is None:
            raise AuthError("the request is not signed: both sides need the dataset's secret and the same version of forebay")
        time_ms, caller, number, body, signature = match.groups()
        request = msgspec.structs.replace(request, body=body)
        wanted = self.key.sign(request, int(time_ms), f"{caller}:{number}")
        if not hmac.compare_digest(wanted.encode(), signature.encode()):
            raise AuthError("the signature is wrong: give both sides the same secret file and the same dataset")
        now = self._clock()
        ahead = int(time_ms) / 1000 - now
        if abs(ahead) > WINDOW:
            raise AuthError(
                f"the request's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this member's, "
                f"more than {WINDOW:.0f} s: set both by NTP"
            )
        with self._lock:
            fresh = self._used.use(caller, int(number), now)
        if not fresh:
            raise AuthError("the request was seen before, or came too late after others: sign it again")
        return signature


def body_of(header: str) -> str:
    """The hash of the body that a checked header states."""
    match = _AUTH.match(header)
    return match[4] if match else ""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if data else EMPTY


def secret_path(directory: str) -> str:
    """Where `--workers` keeps the secret it makes."""
    return str(Path(directory) / "peer-secret")
