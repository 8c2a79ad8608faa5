"""Directory names in bounded pieces that any process can go on from, by the kernel's own cookies (getdents64, lseek).

`os.scandir` gives no cookie, so a page would have to be the whole directory, or an open iterator that a restart loses.
"""

from __future__ import annotations

import ctypes
import os
import struct

_HEAD = struct.Struct("<QqHB")  # d_ino, d_off, d_reclen, d_type; the name follows
_BUFFER = 64 << 10
_libc = ctypes.CDLL(None, use_errno=True)


def read_names(fd: int, cookie: int, limit: int) -> tuple[list[bytes], int]:
    """Up to `limit` names (without "." and "..") of the directory `fd` after `cookie` (0 = its start), and the cookie to go on
    from, -1 when there are no more. Raises `OSError`.

    A name that exists throughout is given exactly once, whatever else comes and goes (POSIX readdir).
    """
    os.lseek(fd, cookie, os.SEEK_SET)
    names: list[bytes] = []
    buffer = ctypes.create_string_buffer(_BUFFER)
    while True:
        got = _libc.getdents64(fd, buffer, _BUFFER)
        if got < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        if got == 0:
            return names, -1
        data = buffer.raw[:got]
        at = 0
        while at < got:
            _, after, length, _ = _HEAD.unpack_from(data, at)
            name = data[at + _HEAD.size : at + length]
            name = name[: name.index(b"\0")]
            at += length
            if name not in {b".", b".."}:
                if len(names) >= limit:
                    return names, cookie
                names.append(name)
            cookie = after
