"""What may hang is done here, in a process that is thrown away: paths inside of a mount whose daemon may be dead or slow.

    python -P -m forebay.fuse.csi.volumes.child bind SOURCE SUB TARGET OPTIONS  SUB below SOURCE ("" = all) appears at TARGET
    python -P -m forebay.fuse.csi.volumes.child statvfs PATH                    prints block size, blocks, free, files, free ones

Says an empty line before it looks at any path: how long Python takes to start says nothing of a mount.
Exit codes: 0 done, 3 refused (a sentence on stdout), anything else failed (a sentence on stdout).
"""

from __future__ import annotations

import os
import select
import stat
import subprocess
import sys

from forebay.fuse.csi.protocol.refusal import Refusal
from forebay.fuse.csi.volumes import binds
from forebay.fuse.supervision import processes

REFUSED = 3
NOT_THERE = 4
START = 60.0
"""Seconds until the process must have begun. 0.1 are usual; 5 and more were seen on two cores at a load of 40."""


def open_below(top: str, sub: str) -> int:
    """An O_PATH descriptor of directory `sub` below `top`, through no symbolic link. OSError with a sentence."""
    fd = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    at = ""
    for part in [p for p in sub.split("/") if p]:
        at = f"{at}/{part}"
        try:
            inner = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except OSError as e:
            raise OSError(e.errno, f"{at} below {top}: {os.strerror(e.errno or 0)}") from None
        finally:
            os.close(fd)
        fd = inner
        mode = os.fstat(fd).st_mode
        if not stat.S_ISDIR(mode):
            os.close(fd)
            what = "a symbolic link, which is not followed" if stat.S_ISLNK(mode) else "no directory"
            raise NotADirectoryError(20, f"{at} below {top} is {what}")
    return fd


def main(argv: list[str]) -> int:
    print(flush=True)  # noqa: T201
    try:
        if argv[0] == "statvfs":
            v = os.statvfs(argv[1])
            print(v.f_frsize, v.f_blocks, v.f_bfree, v.f_files, v.f_ffree)  # noqa: T201
            return 0
        _, source, sub, target, options = argv
        fd = open_below(source, sub)
        binds.bind(f"/proc/self/fd/{fd}", target, read_only=True, options=options.split(","))
    except NotADirectoryError as e:
        print(e.strerror)  # noqa: T201
        return REFUSED
    except FileNotFoundError as e:
        print(e.strerror)  # noqa: T201
        return NOT_THERE
    except OSError as e:
        print(e.strerror or e)  # noqa: T201
        return 1
    return 0


def run(*words: str, deadline: float) -> str:
    """Run this module; what it printed. `deadline`: seconds from when it begins. Raises `Refusal`."""
    command = processes.python("forebay.fuse.csi.volumes.child", *words)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, cwd="/") as process:
        try:
            assert process.stdout is not None
            begun = select.poll()
            begun.register(process.stdout, select.POLLIN)
            if not begun.poll(START * 1000):
                raise Refusal("DEADLINE_EXCEEDED", f"no process could be started for {words[0]} within {START:.0f} s")
            said, complaint = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            raise Refusal(
                "DEADLINE_EXCEEDED", f"{words[1]} does not answer within {deadline:.0f} s: its daemon hangs or its store is slow"
            ) from None
        finally:
            process.kill()  # of one that has ended nothing is left to kill
    if process.returncode == 0:
        return said.strip()
    code = {REFUSED: "INVALID_ARGUMENT", NOT_THERE: "NOT_FOUND"}.get(process.returncode, "INTERNAL")
    raise Refusal(code, said.strip() or f"{words[0]} failed: {complaint.strip()[-300:]}")  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
