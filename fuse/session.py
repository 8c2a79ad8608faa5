"""The kernel-protocol session: one dispatcher thread answers what needs no waiting, a bounded pool answers the rest.

The dispatcher reads a request, runs its handler with `wait=False` and writes the reply: index look-ups, passthrough
opens, reads from the page cache. A handler that would have to ask the worker or a disk raises `WouldBlock`, and the same
handler runs again with `wait=True` in a thread of the pool. Each request gets exactly one reply.

Cross-core wake-ups dominate small requests (15k opens/s with a blocking read, 35k/s when the dispatcher polls), so the
dispatcher polls for some tens of microseconds while requests follow each other closely, and never when it is confined to
one core: there the reader could not run meanwhile.
"""

from __future__ import annotations

import errno
import functools
import io
import mmap
import os
import queue
import select
import struct
import time
from collections.abc import Callable
from typing import Any

from forebay.cache.disk.index import DIR
from forebay.cache.fetch.awake import Awake
from forebay.fuse import device
from forebay.fuse import protocol as p
from forebay.fuse.files import Damaged
from forebay.fuse.opens import CACHED, PASSTHROUGH, SPECIAL
from forebay.fuse.operations import Operations
from forebay.fuse.pages import BLKSIZE, DIR_MODE, DIR_SIZE, FILE_MODE, SECOND, Page
from forebay.fuse.pool import DISK, Job, Pool
from forebay.fuse.record import LAST_OPEN, Record
from forebay.fuse.view import WouldBlock, unpack_fixed

BUFFERS = 6
"""Read buffers of the pool: bytes are copied by two cores at most, and a buffer is held for the copy, not for the wait."""
BUFFER = p.MAX_READ + (1 << 19)
SPINS = 70
"""Polls of 0.8 us each before the dispatcher goes to sleep in read(2)."""
ALONE = 4096
"""Requests until a dispatcher that has one core looks again whether it got another: the clock costs 1 % of a warm open."""
LINGER_MS = 20
"""Milliseconds without a request after which idle cores may halt again."""
QUICK = 0.0002
"""Seconds between two requests below which polling may pay."""
AHEAD_VALID = 0.1
"""Seconds for which a directory page built ahead may be sent."""
DIR_ROOM = 128 << 10

Handler = Callable[[bytes, int, int, bool], "bytes | tuple[bytes, memoryview] | None"]
Log = Callable[..., None]


class Session:
    """Serves one device descriptor until it is unmounted. `run` is the dispatcher; `stop` may come from any thread."""

    def __init__(
        self, fd: int, ops: Operations, agreed: p.Negotiated, record: Record, log: Log, *, notice: Callable[[bytes], None]
    ) -> None:
        """`notice` queues a notification to the kernel, for a thread that answers nothing to send."""
        self.fd = fd
        self.ops = ops
        self.owner = ops.owner
        self.names, self.opens = ops.names, ops.opens
        self.head = record.head
        self.agreed = agreed
        self.record = record
        self.log = log
        self.stopping = False
        self.notice = notice
        self.awake = Awake()
        self.reply = functools.partial(device.reply, fd)
        self.pool = Pool(record, self._wait_for, self.reply)
        self._buffers: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(BUFFERS):
            self._buffers.put(_buffer())
        self._own_buffer = _buffer()
        self._ahead: tuple[int, int, int, float, Page] | None = None  # inode, cookie, room, when, page
        self.handlers: dict[int, Handler] = {
            p.LOOKUP: self._lookup,
            p.GETATTR: self._getattr,
            p.OPEN: self._open,
            p.READ: self._read,
            p.RELEASE: self._release,
            p.OPENDIR: self._opendir,
            p.READDIR: self._readdir,
            p.READDIRPLUS: self._readdirplus,
            p.RELEASEDIR: self._releasedir,
            p.STATFS: self._statfs,
            p.GETXATTR: self._getxattr,
            p.LISTXATTR: self._listxattr,
            p.FORGET: self._forget,
            p.BATCH_FORGET: self._forget,
            p.INTERRUPT: self._interrupt,
            p.DESTROY: self._destroy,
            p.INIT: self._init_again,
        }

    # --- the dispatcher ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the file system is unmounted (returns) or the connection is aborted (`OSError(ECONNABORTED)`)."""
        # the head, and what an OPEN has behind it: for another request those are bytes that nobody looks at
        fd, unpack, u32 = self.fd, struct.Struct("<IIQQ16xI").unpack_from, _U32
        opens, head = self.opens, self.head
        lock, enter, take_back = opens.lock, opens.modes.enter, opens.take_back
        open_, release_, readdirplus = p.OPEN, p.RELEASE, p.READDIRPLUS
        special = 0xFFFFFFFF if opens.validating else SPECIAL
        read = io.FileIO(fd, closefd=False).readinto
        write = os.write
        handlers = {code: (h, p.IN_SIZE + p.BODY.get(code, 0)) for code, h in self.handlers.items()}
        buffer = self.record.buffer
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        ready = poll.poll
        now = time.perf_counter
        awake = self.awake
        spinning, credit, quick, last, check, alone = False, 0, 0, 0.0, 0.0, 0
        while not self.stopping:
            if spinning:
                for _ in range(SPINS):
                    if ready(0):
                        if credit < 16:
                            credit += 1
                        break
                else:
                    credit -= 4
                    if credit < 0 or not ready(LINGER_MS):  # else a reader that ends keeps all cores awake until the next one
                        spinning, quick = False, 0
                        awake.release()
            try:
                n = read(buffer)  # shared with the supervisor: the request outlives this process
                if n is None:
                    ready(1000)  # somebody made the descriptor non-blocking
                    continue
            except OSError as e:
                if e.errno in {errno.EINTR, errno.ENOENT}:
                    continue
                if e.errno == errno.ENODEV:
                    return
                raise
            if alone:
                alone -= 1
            elif not spinning:
                t = now()
                if t - last < QUICK:
                    quick += 1
                    if quick > 8 and t > check:
                        check = t + 0.1
                        spinning = len(os.sched_getaffinity(0)) > 1
                        credit, quick = 4, 0
                        alone = 0 if spinning else ALONE
                        if spinning:
                            awake.hold()
                else:
                    quick = 0
                last = t
            length, opcode, unique, nodeid, flags = unpack(buffer)
            if opcode == open_ and n == 48 and not flags & special:
                # the two requests of every warm file, without the frames of the general way (a third of their cost)
                counted = unique & _WITHOUT_RESENT
                with lock:
                    new = head[LAST_OPEN] != counted
                    backing_id = enter(nodeid, counted)
                    if backing_id is not None:
                        opens.used.add(nodeid)
                        try:
                            write(fd, _OPENED(32, 0, unique, nodeid, PASSTHROUGH if backing_id else CACHED, backing_id))
                        except OSError as e:
                            self._unwanted(nodeid, e, new)
                        continue
            elif opcode == release_ and n == 64:
                try:
                    write(fd, _DONE(16, 0, unique))
                except OSError as e:
                    if e.errno != errno.ENOENT:  # else a predecessor answered it
                        raise
                    continue
                with lock:  # after the reply: a count never falls below the kernel's
                    take_back(nodeid)
                continue
            raw = bytes(buffer[:n])
            handler, least = handlers.get(opcode, _UNKNOWN)
            try:
                if handler is None:
                    write(fd, p.error_reply(unique, errno.EROFS if opcode in p.WRITES else errno.ENOSYS))
                elif n != length or n < least:
                    self.log("malformed request", opcode=p.NAMES.get(opcode, opcode), length=length, got=n)
                    write(fd, p.error_reply(unique, errno.EIO))
                else:
                    reply = handler(raw, unique, nodeid, False)
                    if reply is not None:
                        if isinstance(reply, bytes):
                            write(fd, reply)
                        else:
                            os.writev(fd, reply)
            except WouldBlock:
                self.pool.submit(Job(raw, opcode, unique, nodeid, u32(raw, 32)[0]))
            except BlockingIOError:
                self.pool.submit(Job(raw, opcode, unique, nodeid, u32(raw, 32)[0]), DISK)
            except OSError as e:
                self._fail(opcode, unique, e)
            except Exception as e:  # noqa: BLE001 - a defect must cost one request, not the mount
                self._defect(opcode, unique, e)
            if opcode == readdirplus and self._ahead is not None and self._ahead[4] is _WANTED and not ready(0):
                self._build_ahead()

    def stop(self) -> None:
        """Ask the dispatcher to end after the request it has; it may sleep in read(2) until the next one."""
        self.stopping = True

    def _fail(self, opcode: int, unique: int, e: OSError) -> None:
        number = _WORKER_GONE.get(e.errno or errno.EIO, e.errno or errno.EIO)
        if opcode in {p.FORGET, p.BATCH_FORGET, p.INTERRUPT}:
            return
        if number not in _EVERYDAY:
            self.log("request failed", opcode=p.NAMES.get(opcode, opcode), errno=errno.errorcode.get(number, number), why=str(e))
        self.reply(p.error_reply(unique, number if 0 < number < 512 else errno.EIO))

    def _defect(self, opcode: int, unique: int, e: Exception) -> None:
        self.log("defect", opcode=p.NAMES.get(opcode, opcode), why=f"{type(e).__name__}: {e}", error=e)
        self.reply(p.error_reply(unique, errno.EIO))

    # --- what waits ----------------------------------------------------------------------------------------------

    def _wait_for(self, job: Job) -> None:
        """In a thread of the pool."""
        claim = self.pool.claim
        try:
            reply = self.handlers[job.opcode](job.raw, job.unique, job.nodeid, True)
            if reply is not None and claim(job.unique):
                self.reply(reply if isinstance(reply, bytes) else b"".join(reply))
        except OSError as e:
            if claim(job.unique):
                self._fail(job.opcode, job.unique, e)
        except Exception as e:  # noqa: BLE001 - as in the dispatcher
            if claim(job.unique):
                self._defect(job.opcode, job.unique, e)

    def serve_again(self, requests: list[bytes]) -> None:
        """What a predecessor had in hand, on a kernel that cannot resend it. Before `run`."""
        for raw in requests:
            _, opcode, unique, nodeid, _, _, pid, _, _ = p.IN.unpack_from(raw)
            if opcode in {p.FORGET, p.BATCH_FORGET, p.INTERRUPT, p.INIT}:
                continue
            if opcode in self.handlers and len(raw) >= p.IN_SIZE + p.BODY.get(opcode, 0):
                self.pool.submit(Job(raw, opcode, unique, nodeid, pid))
            else:
                self.reply(p.error_reply(unique, errno.EROFS if opcode in p.WRITES else errno.ENOSYS))

    def _interrupt(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> None:
        self.pool.interrupt(p.INTERRUPT_IN.unpack_from(raw, p.IN_SIZE)[0])

    # --- handlers: names and attributes --------------------------------------------------------------------------

    def _lookup(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> bytes:
        found = self.names.lookup(nodeid, raw[40:-1], wait)
        if found is None:
            ttl = self.names.absent_ttl(nodeid)
            if not ttl:
                return p.error_reply(unique, errno.ENOENT)
            return p.ENTRY_REPLY.pack(144, 0, unique, 0, 0, ttl, *_ZEROS19)
        row, ttl = found
        attributes = self._attributes(row)
        return _ENTRY(144, 0, unique, attributes[0], ttl, ttl, *attributes)

    def _getattr(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> bytes:
        row, ttl = self.names.getattr(nodeid, wait)
        return _ATTR(120, 0, unique, ttl, *self._attributes(row))

    def _attributes(self, row: bytes) -> tuple[int, ...]:
        """The fields of the kernel's attr that are not padding, beginning with the inode number."""
        kind, _, _, _, size, mtime, ino, _, _, _ = unpack_fixed(row)
        s, ns = divmod(mtime, SECOND)
        s &= _MASK64
        if kind == DIR:
            mode, nlink, size, blocks = DIR_MODE, 2, DIR_SIZE, 8
        else:
            mode, nlink, blocks = FILE_MODE, 1, (size + 511) >> 9
        uid, gid = self.owner
        return ino, size, blocks, s, s, s, ns, ns, ns, mode, nlink, uid, gid, BLKSIZE

    def _forget(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> None:
        """Nothing is kept for an inode because the kernel knows it: the index is persistent."""

    def _destroy(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> bytes:
        return p.OUT.pack(p.OUT_SIZE, 0, unique)

    def _init_again(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> bytes:
        self.log("a second INIT", flags=raw.hex())
        return p.error_reply(unique, errno.EIO)

    # --- handlers: open, read, release ---------------------------------------------------------------------------

    def _open(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> None:
        """Replies are written under the lock, so that the kernel sees opens in the order in which they were counted."""
        flags = _U32(raw, 40)[0]
        opens = self.opens
        counted = unique & _WITHOUT_RESENT
        with opens.lock:
            new = self.head[LAST_OPEN] != counted
            answer = opens.enter(nodeid, flags, counted)
            if answer is not None and (not wait or self.pool.claim(unique)):
                try:
                    os.write(self.fd, _OPENED(32, 0, unique, nodeid, *answer))
                except OSError as e:
                    self._unwanted(nodeid, e, new)
                return
            if answer is not None:
                opens.take_back(nodeid)
                return
        if not wait:
            raise WouldBlock
        file = opens.fetch(nodeid, flags)
        with opens.lock:
            new = self.head[LAST_OPEN] != counted
            answer = opens.admit(file, counted)
            if not self.pool.claim(unique):
                opens.take_back(nodeid)
                return
            try:
                os.write(self.fd, _OPENED(32, 0, unique, nodeid, *answer))
            except OSError as e:
                self._unwanted(nodeid, e, new)

    def _unwanted(self, nodeid: int, e: OSError, new: bool) -> None:
        """Nobody waits for this open any more: it is taken back, unless a predecessor counted it and may have answered it."""
        if new:
            self.opens.take_back(nodeid)
        if e.errno not in {errno.ENOENT, errno.ENODEV, errno.ECONNABORTED}:
            raise e

    def _read(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> tuple[bytes, memoryview] | None:
        _fh, offset, size, *_ = p.READ_IN.unpack_from(raw, p.IN_SIZE)
        if not wait:
            data = self.opens.read(nodeid, offset, size, self._own_buffer, False)
            return p.OUT.pack(p.OUT_SIZE + len(data), 0, unique), data
        ops = self.opens
        for _ in range(2):
            file, size = ops.locate(nodeid, offset, size, True)
            buffer = self._buffers.get()  # only now: the wait may have been long
            try:
                data = ops.fill(file, offset, size, buffer, True)
                if self.pool.claim(unique):
                    self._write_data(unique, data)
                # without passthrough the mount's page cache is what later opens read from, too
                behind = file.left_behind(offset, size) if ops.passthrough else None
                if behind is not None:
                    self.notice(p.inval_pages_notice(nodeid, *behind))
                return None
            except Damaged as e:
                damage = e
            finally:
                self._buffers.put(buffer)
                file.let_go()
            ops.damaged(file, damage)
        raise OSError(errno.EIO, f"inode {nodeid} is damaged in the cache again after it was fetched anew")

    def _write_data(self, unique: int, data: memoryview) -> None:
        try:
            os.writev(self.fd, (p.OUT.pack(p.OUT_SIZE + len(data), 0, unique), data))
        except OSError as e:
            if e.errno != errno.ENOENT:
                raise

    def _release(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> None:
        """The reply first: a count never falls below the kernel's."""
        try:
            os.write(self.fd, _DONE(16, 0, unique))
        except OSError as e:
            if e.errno == errno.ENOENT:
                return  # a predecessor answered it
            raise
        opens = self.opens
        with opens.lock:
            opens.take_back(nodeid)

    # --- handlers: directories -----------------------------------------------------------------------------------

    def _opendir(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> bytes:
        """Without CACHE_DIR: the kernel would keep names only, and once it let go of the attributes every stat would be a
        LOOKUP (28k/s), where READDIRPLUS brings both in one pass that costs no more than the caller's own stat calls."""
        return _OPENED(32, 0, unique, nodeid, 0, 0)

    def _releasedir(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> bytes:
        return p.OUT.pack(p.OUT_SIZE, 0, unique)

    def _readdir(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> bytes:
        return self._dir_page(raw, unique, nodeid, False, wait)

    def _readdirplus(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> bytes:
        return self._dir_page(raw, unique, nodeid, True, wait)

    def _dir_page(self, raw: bytes, unique: int, nodeid: int, plus: bool, wait: bool) -> bytes:
        _fh, cookie, size, *_ = p.READ_IN.unpack_from(raw, p.IN_SIZE)
        room = min(size, DIR_ROOM)
        page = None
        if not wait and plus and self._ahead is not None:
            ino, at, width, when, page = self._ahead
            self._ahead = None
            if page is _WANTED or (ino, at, width) != (nodeid, cookie, room) or time.perf_counter() - when > AHEAD_VALID:
                page = None
        if page is None:
            page = self.names.readdir(nodeid, cookie, room, plus, wait)
        if plus and not wait and page.more:
            self._ahead = (nodeid, page.cookie, room, 0.0, _WANTED)
        return p.OUT.pack(p.OUT_SIZE + len(page.data), 0, unique) + page.data

    def _build_ahead(self) -> None:
        """The page that a listing asks for next, while the kernel and the reader work on this one."""
        if self._ahead is None:
            return
        ino, cookie, room, _, _ = self._ahead
        self._ahead = None
        try:
            page = self.names.readdir(ino, cookie, room, True, False)
        except (WouldBlock, OSError):
            return
        self._ahead = (ino, cookie, room, time.perf_counter(), page)

    # --- handlers: the rest --------------------------------------------------------------------------------------

    def _statfs(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> bytes:
        s = self.ops.statfs()
        return p.OUT.pack(96, 0, unique) + p.STATFS_OUT.pack(
            s.blocks, s.bfree, s.bfree, s.files, 0, s.bsize, 255, s.bsize, *([0] * 7)
        )

    def _getxattr(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> bytes:
        size = p.GETXATTR_IN.unpack_from(raw, p.IN_SIZE)[0]
        return _sized(unique, size, self.ops.getxattr(nodeid, p.name_of(raw, p.IN_SIZE + 8)))

    def _listxattr(self, raw: bytes, unique: int, nodeid: int, wait: bool) -> bytes:
        size = p.GETXATTR_IN.unpack_from(raw, p.IN_SIZE)[0]
        return _sized(unique, size, self.ops.listxattr(nodeid))


def _buffer() -> memoryview:
    """Memory that costs nothing until it is used: a mount with passthrough hardly reads."""
    return memoryview(mmap.mmap(-1, BUFFER, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _sized(unique: int, size: int, value: bytes) -> bytes:
    """The reply of an xattr request: the length when asked with size 0, ERANGE when it does not fit."""
    if size == 0:
        return p.OUT.pack(24, 0, unique) + p.XATTR_SIZE.pack(len(value), 0)
    if len(value) > size:
        return p.error_reply(unique, errno.ERANGE)
    return p.OUT.pack(p.OUT_SIZE + len(value), 0, unique) + value


_U32 = struct.Struct("<I").unpack_from
_OPENED = p.OPEN_REPLY.pack
_DONE = p.OUT.pack
_WITHOUT_RESENT = ~p.RESENT
_MASK64 = (1 << 64) - 1
_ENTRY = struct.Struct("<IiQQ8xQQ8xQQQQQQIIIIIII4xI4x").pack  # ENTRY_REPLY without what is always 0
_ATTR = struct.Struct("<IiQQ8xQQQQQQIIIIIII4xI4x").pack
_UNKNOWN: tuple[None, int] = (None, 0)
_ZEROS19: tuple[Any, ...] = (0,) * 19
_WANTED = Page(b"", 0, False)
_WORKER_GONE = dict.fromkeys((errno.ENOTCONN, errno.ECONNABORTED, errno.EPROTO, errno.ETIMEDOUT), errno.EIO)
"""What a door says when nobody answers it. To a program ENOTCONN would mean that the mount is dead."""
_EVERYDAY = frozenset((errno.ENOENT, errno.ENODATA, errno.EOPNOTSUPP, errno.EROFS, errno.ERANGE, errno.ESTALE))
