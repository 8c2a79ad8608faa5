"""The mount daemon: serves one mount through descriptors that its supervisor holds too, so that it may die at any instant.

    python -P -m forebay.fuse.daemon --run-dir RUN --mount DIR --index I --device-fd N --state-fd M --supervisor-fd S

The first daemon of a mount answers INIT and keeps the exchange in the record; a later one finds it there, asks the kernel
to resend what its predecessor left unanswered, and goes on. Main thread: signals, the supervisor's end of the socket, a
tick each second. Other threads: dispatcher, pool, events of the worker, notifications to the kernel.

Exit codes: 0 unmounted or told to stop, 1 try again, 2 configuration (one sentence on stderr). SIGTERM leaves the mount
as it is. Its start is part of the pause that readers see: it imports neither trio nor click nor rich.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from functools import partial
from typing import Any, NoReturn

import msgspec

from forebay.api import places, wire
from forebay.api.spec import DatasetSpec, decode_spec
from forebay.cache.client import Door, DoorError
from forebay.cache.disk.index import Index
from forebay.cache.tree import numbering
from forebay.fuse import device, mounting
from forebay.fuse import protocol as p
from forebay.fuse.arguments import Args, Unconfigured
from forebay.fuse.modes import Modes
from forebay.fuse.operations import Backing, Operations
from forebay.fuse.record import Record, RecordError
from forebay.fuse.session import Session

TICK = 1.0
WAIT_FOR_INDEX = 60.0
"""Seconds for a worker's first start (it creates the index)."""
INODES_PER_TOUCH = 2000
"""Of each of three lists, nine bytes each: a message stays below the door's 64 KiB."""
NOTICES = 100_000
"""Bound of queued invalidations; beyond it one INC_EPOCH says the same for everything."""
SUPERVISOR_RETRY = 5.0
SWITCH_INTERVAL = 0.0002
"""Seconds a pool thread may keep the interpreter while the dispatcher waits for it (Python's own: 0.005)."""
OVERLAYFS = 0x794C7630


def log(message: str, **fields: Any) -> None:
    """One JSON object a line on stderr."""
    error = fields.pop("error", None)
    if isinstance(error, BaseException):
        import traceback  # 20 ms of every start for what should never happen

        fields["trace"] = traceback.format_exception(error)[-3:]
    line = {"time": round(time.time(), 3), "role": "mount", "pid": os.getpid(), "message": message, **fields}
    with contextlib.suppress(OSError):
        os.write(2, msgspec.json.encode(line, enc_hook=_text) + b"\n")  # one write: lines of two daemons do not mix


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


class Daemon:
    """One mount. Everything that outlives it is in the record and in the index."""

    def __init__(self, args: Args, spec: DatasetSpec) -> None:
        self.args = args
        self.spec = spec
        self.fd = args.device_fd
        self.record = Record(args.state_fd)
        self.reason = ""
        self.restarts = 0
        self.depth = 1  # file systems below a backing file, at most
        self.read_ahead = 0
        self.session: Session | None = None
        self.supervisor = args.supervisor_fd
        self.next_supervisor = 0.0
        self.ended = threading.Event()
        self.code = 0
        self.door = Door(os.path.join(args.run_dir, places.WORKER_SOCK), role="mount")
        self.notices: deque[bytes] = deque()
        self.noticed = threading.Semaphore(0)
        self.wake_r, self.wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    # --- INIT ----------------------------------------------------------------------------------------------------

    def negotiate(self) -> tuple[p.Negotiated, bool]:
        """What INIT settled, and whether a predecessor settled it."""
        kept = self.record.init
        if kept is not None:
            return self._again(*kept), True
        if any(on_overlayfs(t.path) for t in self.spec.tiers):
            self.depth = 2
            log("the cache lies on overlayfs: this mount cannot be a lower layer of another overlayfs")
        while True:
            try:
                raw = os.read(self.fd, p.REQUEST_BUFFER)
            except InterruptedError:
                continue
            reply, agreed = p.answer_init(raw, wanted=self._wanted(), stack_depth=self.depth)
            if agreed is not None:
                self.record.remember_init(raw, reply)
            os.write(self.fd, reply)
            if agreed is not None:
                log(
                    "negotiated",
                    minor=agreed.minor,
                    flags=hex(agreed.flags),
                    passthrough=agreed.passthrough,
                    resend=agreed.resend,
                )
                return agreed, False

    def _wanted(self) -> int:
        wanted = p.WANTED
        if not self.args.passthrough or os.geteuid() != 0:
            wanted &= ~p.PASSTHROUGH
        if not self.args.resend:
            wanted &= ~p.HAS_RESEND
        return wanted

    def _again(self, request: bytes, reply: bytes) -> p.Negotiated:
        """The predecessor's INIT. The kernel sends no other, so what it settled holds."""
        _, minor, readahead, low, *rest = p.INIT_OUT.unpack_from(reply, p.OUT_SIZE)
        pages, high = rest[4], rest[6]
        self.depth = rest[7] or 1
        return p.Negotiated(minor, low | high << 32, (pages or 32) * p.PAGE, readahead)

    def why_not(self, agreed: p.Negotiated) -> str:
        """One sentence on why complete files are not read past this daemon; empty when they are."""
        if agreed.passthrough:
            return ""
        if not self.args.passthrough:
            return "switched off by --no-passthrough or FOREBAY_NO_PASSTHROUGH"
        if os.geteuid() != 0:
            return "an ordinary user's mount has none: the kernel asks for CAP_SYS_ADMIN"
        return f"the kernel does not offer it (FUSE 7.{agreed.minor}; Linux 6.9 with CONFIG_FUSE_PASSTHROUGH does)"

    def publish(self) -> None:
        """Write RUN/mount-<i>.json for `status` and `doctor`; replaced as a whole."""
        session = self.session
        if session is None:
            return
        agreed = session.agreed
        state = {
            "version": 1, "pid": os.getpid(), "mountpoint": self.args.mount, "index": self.args.index,
            "passthrough": agreed.passthrough and session.ops.opens.passthrough, "reason": self.reason or None,
            "resend": agreed.resend, "minor": agreed.minor, "max_read": agreed.max_read, "readahead_kb": self.read_ahead,
            "restarts": self.restarts,
            "stack_depth": self.depth,
        }  # fmt: skip
        path = os.path.join(self.args.run_dir, places.mount_state(self.args.index))
        fresh = f"{path}.{os.getpid()}"
        try:
            with open(fresh, "wb") as f:
                f.write(msgspec.json.encode(state))
            os.replace(fresh, path)
        except OSError as e:
            log("state not written", path=path, why=str(e))

    # --- start ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.restarts = self.record.started()
        try:
            agreed, resumed = self.negotiate()
        except p.Unusable as e:
            raise Unconfigured(str(e)) from e
        except OSError as e:
            if e.errno == errno.ENODEV:
                self.finish(0)
                return
            raise
        entry = mounting.find(self.args.mount)
        if entry is not None:
            self.read_ahead = mounting.set_read_ahead(entry.device)
        self.reason = self.why_not(agreed)
        index = self.open_index()
        self.renumber(index)
        fd = self.fd
        backing = Backing(partial(device.backing_open, fd), partial(device.backing_close, fd)) if agreed.passthrough else None
        uid = os.geteuid() if self.spec.uid is None else self.spec.uid
        gid = os.getegid() if self.spec.gid is None else self.spec.gid
        ops = Operations(self.spec, index, self.door, Modes(self.record), uid=uid, gid=gid, backing=backing)
        ops.opens.no_passthrough = self.refused  # type: ignore[method-assign]
        self.session = session = Session(fd, ops, agreed, self.record, log, notice=self.notice)
        if resumed:
            ops.opens.worker_restarted()  # nor does it know what its predecessor held open
            lost = self.record.unanswered()
            if agreed.resend:
                device.notify(self.fd, p.resend_notice())
            else:
                session.serve_again(lost)
            log("resumed", restarts=self.restarts, inodes=len(self.record.slots), resend=agreed.resend, in_hand=len(lost))
        for target, name in ((self.dispatch, "dispatcher"), (self.follow, "events"), (self.tell, "notices")):
            threading.Thread(target=self.guard, args=(target,), name=name, daemon=True).start()
        self.publish()
        if self.supervisor >= 0:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.supervisor)) as link:
                link.send(b"ready", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def open_index(self) -> Index:
        """The worker's index; a worker that starts for the first time is still making it."""
        path = os.path.join(self.spec.index_dir, "live")
        deadline = time.monotonic() + WAIT_FOR_INDEX
        pause = 0.01
        while True:
            try:
                index = Index(path, readonly=True)
                index.env.reader_check()  # a killed predecessor may have left a slot that pins old pages
                st = os.stat(os.path.join(path, "data.mdb"))
                self.index_file = (st.st_dev, st.st_ino)
                return index
            except Exception as e:
                if time.monotonic() > deadline:
                    raise SystemExit(f"the index {path} did not appear within {WAIT_FOR_INDEX:g} s ({e}): see worker.log") from e
            time.sleep(pause)
            pause = min(pause * 2, 0.2)

    def renumber(self, index: Index) -> None:
        """The mounts by number, as the index has them: the spec has the manifest's order, and the worker may have taken over
        others since it was written."""
        with index.env.begin() as txn:
            known = numbering.load(index, txn)
        if known is None or known == self.spec.mounts:
            return
        self.spec.mounts[:] = known
        log("mounts", known=[m.path for m in known if not m.gone])
        validating = any(m.freshness.mode == "validate" for m in known)
        if self.session is not None and self.session.opens.validating != validating:
            log("opens are asked about in another way than before: starting again")
            self.finish(1)

    def refused(self, why: OSError) -> None:
        hint = "put the cache on a plain file system" if why.errno == errno.ELOOP else "see `forebay doctor`"
        self.reason = f"the kernel refused the first backing file ({os.strerror(why.errno or 0)}): {hint}"
        log("no passthrough", why=self.reason)
        self.publish()

    # --- threads -------------------------------------------------------------------------------------------------

    def guard(self, target: Any) -> None:
        """A thread that dies takes the daemon with it: the successor starts from the record."""
        try:
            target()
        except Exception as e:  # noqa: BLE001 - logged, and the successor starts from the record
            log("thread died", thread=threading.current_thread().name, why=f"{type(e).__name__}: {e}", error=e)
            self.finish(1)

    def dispatch(self) -> None:
        assert self.session is not None
        try:
            self.session.run()
        except OSError as e:
            if e.errno != errno.ECONNABORTED:
                raise
            log("connection aborted")
        self.finish(0)

    def follow(self) -> None:
        """Events of the worker. They only queue work: the kernel may make a notification wait."""
        assert self.session is not None
        opens, index = self.session.opens, self.session.ops.view.index
        for event in self.door.subscribe():
            if event is None and self.index_replaced():
                log("the worker made a new index: starting again")
                self.finish(1)
            elif event is None:  # at the start too: a predecessor's successor, or a change before the worker knew of us
                self.renumber(index)
                opens.worker_restarted()
                self.notice(p.inc_epoch_notice())
            elif isinstance(event, wire.Evicted):
                opens.evicted(event.inos)
            elif event.parent == 0:
                self.renumber(index)
                self.notice(p.inc_epoch_notice())
            else:
                self.notice(p.inval_entry_notice(event.parent, event.name))

    def index_replaced(self) -> bool:
        """Whether the file behind our mapping is no longer the index (it was discarded as unusable)."""
        try:
            st = os.stat(os.path.join(self.spec.index_dir, "live", "data.mdb"))
        except FileNotFoundError:
            return True
        return (st.st_dev, st.st_ino) != self.index_file

    def notice(self, packet: bytes) -> None:
        if len(self.notices) >= NOTICES:
            self.notices.clear()
            packet = p.inc_epoch_notice()
        self.notices.append(packet)
        self.noticed.release()

    def tell(self) -> None:
        assert self.session is not None
        while True:
            self.noticed.acquire()
            try:
                packet = self.notices.popleft()
            except IndexError:
                continue  # the queue overflowed and was cleared
            try:
                device.notify(self.fd, packet)
            except OSError as e:
                if e.errno != errno.EINVAL:  # a kernel before 7.44 has no INC_EPOCH: its entries end by their timeouts
                    raise

    def touch(self) -> None:
        assert self.session is not None
        opens = self.session.opens
        now = opens.touched()
        n = INODES_PER_TOUCH
        for i in range(0, max(len(now.used), len(now.opened), len(now.closed)), n):
            part = (now.used[i : i + n], now.opened[i : i + n], now.closed[i : i + n])
            if not self.door.touch(*part, timeout=0.5):
                opens.untouched(now.opened[i:], now.closed[i:])
                return

    # --- the main thread -----------------------------------------------------------------------------------------

    def finish(self, code: int) -> None:
        self.code = self.code or code
        self.ended.set()
        with contextlib.suppress(OSError):
            os.write(self.wake_w, b"x")

    def wait(self) -> int:
        poll = select.poll()
        poll.register(self.wake_r, select.POLLIN)
        if self.supervisor >= 0:
            poll.register(self.supervisor, select.POLLIN | select.POLLHUP)
        touching = threading.Thread(target=self.guard, args=(self.tick,), name="tick", daemon=True)
        touching.start()
        while not self.ended.is_set():
            for fd, _ in poll.poll(1000):
                if fd == self.supervisor and self.supervisor_died():
                    poll.unregister(fd)
                    os.close(fd)
                    self.supervisor = -1
            if self.supervisor < 0 and self.args.supervisor_fd >= 0 and time.monotonic() >= self.next_supervisor:
                self.next_supervisor = time.monotonic() + SUPERVISOR_RETRY
                self.replace_supervisor()
                if self.supervisor >= 0:
                    poll.register(self.supervisor, select.POLLIN | select.POLLHUP)
        return self.code

    def tick(self) -> None:
        assert self.session is not None
        while not self.ended.wait(TICK):
            self.touch()
            self.session.opens.sweep()
            self.session.pool.check_signals()

    def supervisor_died(self) -> bool:
        try:
            return os.read(self.supervisor, 16) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def replace_supervisor(self) -> None:
        """Start a supervisor that takes over; flock makes it one, however many daemons ask."""
        import subprocess

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        hand_over = msgspec.json.encode(
            {"version": 1, "index": self.args.index, "mount": self.args.mount, "daemon": os.getpid(), "device_fd": self.fd,
             "state_fd": self.args.state_fd, "link_fd": theirs.fileno()}
        )  # fmt: skip
        argv = [
            sys.executable,
            "-P",
            "-m",
            "forebay.fuse.supervision.supervisor",
            "--run-dir",
            self.args.run_dir,
            "--adopt",
            hand_over.decode(),
        ]
        try:
            done = subprocess.run(
                argv, pass_fds=(self.fd, self.args.state_fd, theirs.fileno()), stdin=subprocess.DEVNULL, start_new_session=True,
                timeout=20, check=False,
            )  # fmt: skip
            code = done.returncode
        except (OSError, subprocess.TimeoutExpired) as e:
            log("no supervisor", why=str(e))
            code = 1
        theirs.close()
        if code == 0:
            self.supervisor = ours.detach()
            log("supervisor replaced")
            return
        ours.close()
        if code == 3:
            log("nothing to supervise: stopping")
            self.finish(0)
        else:
            log("no supervisor took over", code=code, again_in=SUPERVISOR_RETRY)


def on_overlayfs(path: str) -> bool:
    """Whether a cache directory lies on overlayfs: its files can back a passthrough only at depth 2."""
    best, kind = "", ""
    real = os.path.realpath(path)
    for entry in mounting.entries():
        if (real == entry.path or real.startswith(entry.path.rstrip("/") + "/")) and len(entry.path) >= len(best):
            best, kind = entry.path, entry.fstype
    return kind == "overlay"


def raise_limits() -> None:
    """Every cached open holds a descriptor: take what the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(argv: list[str]) -> int:
    try:
        args = Args(argv)
        for fd in (args.device_fd, args.state_fd, args.supervisor_fd):
            if fd >= 0:
                os.set_inheritable(fd, False)
        with open(os.path.join(args.run_dir, places.SPEC), "rb") as f:
            spec = decode_spec(f.read())
        sys.setswitchinterval(SWITCH_INTERVAL)
        raise_limits()
        daemon = Daemon(args, spec)
    except (Unconfigured, RecordError, ValueError, FileNotFoundError) as e:
        print(e, file=sys.stderr)  # noqa: T201 - the sentence the supervisor passes on
        return 2
    signal.signal(signal.SIGTERM, lambda *_: daemon.finish(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to the supervisor, which ends us in order
    try:
        daemon.start()
    except Unconfigured as e:
        print(e, file=sys.stderr)  # noqa: T201
        return 2
    gc.collect()
    gc.freeze()
    code = daemon.wait()
    log("ends", code=code)
    return code


def _exit(code: int) -> NoReturn:
    """Without joining threads that may wait in the kernel or for the worker: the record is always right."""
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))

__all__ = ["Daemon", "DoorError", "main"]
