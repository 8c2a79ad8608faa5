"""A mounted dataset against a plain directory: names, attributes, bytes, and refusal of every change. Both profiles."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mountlab import CAN_EXEC, Lab, lab
from workerlab import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine")]

ODD = [
    b"with space", b"\xff\xfe not utf-8", "ünï".encode(), b"-rf", b"new\nline", b"tab\t", b"quote'\"", b"x" * 255,
    b"%s%n", b".hidden", b"\\",
]  # fmt: skip


def grow(model: Path) -> None:
    seed = random.Random(12)
    (model / "empty").touch()
    (model / "one byte").write_bytes(b"1")
    for i in range(40):
        (model / f"small-{i:02d}").write_bytes(seed.randbytes(seed.choice([3, 4095, 4096, 4097, 65536, 100_001])))
    deep = model / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "leaf").write_bytes(b"leaf")
    (model / "large").write_bytes(seed.randbytes((9 << 20) + 12345))  # above the size that is complete before OPEN
    (model / "nothing here").mkdir()
    odd = os.path.join(os.fsencode(model), b"odd")
    os.mkdir(odd)
    for name in ODD:
        with open(os.path.join(odd, name), "wb") as f:
            f.write(name * 3)
    many = model / "many"
    many.mkdir()
    for i in range(700):
        (many / f"entry number {i}").write_bytes(b"%d" % i)
    os.utime(model / "one byte", ns=(0, 1_234_567_890_123_456_789))


ROOT = os.geteuid() == 0
PROFILES = ["passthrough", "without", "worker", "worker-without"] if ROOT else ["user", "worker-user"]


@pytest.fixture(scope="module", params=PROFILES)
def mounted(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Complete cache files with passthrough, without, as an ordinary user; the same in front of a worker that starts empty."""
    profile = request.param
    # without a worker nobody could check a version, which an O_DIRECT open asks for
    with lab(mode="ttl" if profile.startswith("worker") else "immutable") as made:
        grow(made.model)
        made.options = ["--no-passthrough"] if "without" in profile else []
        if profile.startswith("worker"):
            made.start_worker()
        else:
            made.fill()
        made.start()
        granted = made.granted()
        assert granted["passthrough"] is (profile in {"passthrough", "worker"})
        assert (granted["reason"] is None) is (profile in {"passthrough", "worker"})
        yield made
        defects = [line for line in made.log_lines() if line["message"] in {"defect", "malformed request", "thread died"}]
        assert defects == []


def walk(base: bytes) -> dict[bytes, tuple[object, ...]]:
    """Kind and size of everything; content too for files."""
    out: dict[bytes, tuple[object, ...]] = {}
    for folder, dirs, files in os.walk(base):
        for name in dirs:
            out[os.path.relpath(os.path.join(folder, name), base)] = ("dir",)
        for name in files:
            path = os.path.join(folder, name)
            with open(path, "rb") as f:
                out[os.path.relpath(path, base)] = ("file", os.lstat(path).st_size, f.read())
    return out


def test_the_whole_tree(mounted: Lab) -> None:
    model, mount = os.fsencode(mounted.model), os.fsencode(mounted.mount_point)
    assert walk(mount) == walk(model)
    assert walk(mount) == walk(model)


def test_attributes(mounted: Lab) -> None:
    for folder, _, files in os.walk(mounted.model):
        for name in files[:50]:
            path = Path(folder) / name
            ours, theirs = os.lstat(mounted.mount_point / path.relative_to(mounted.model)), os.lstat(path)
            assert (ours.st_size, ours.st_mtime_ns, ours.st_nlink) == (theirs.st_size, theirs.st_mtime_ns, 1)
            assert ours.st_mode == stat.S_IFREG | 0o444
            assert ours.st_blocks == (theirs.st_size + 511) // 512
            assert ours.st_blksize == 4096
    folder = os.lstat(mounted.mount_point / "a" / "b")
    assert folder.st_mode == stat.S_IFDIR | 0o555
    inos = [e.inode() for e in os.scandir(mounted.mount_point)]
    assert len(inos) == len(set(inos))
    assert {e.name: e.inode() for e in os.scandir(mounted.mount_point)} == {
        n: os.lstat(mounted.mount_point / n).st_ino for n in os.listdir(mounted.mount_point)
    }


def test_names_that_do_not_exist(mounted: Lab) -> None:
    for name in ("absent", "a/absent", "a/b/c/leaf2", "empty "):
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                os.stat(mounted.mount_point / name)
    with pytest.raises(NotADirectoryError):
        os.stat(mounted.mount_point / "empty" / "below")


@pytest.mark.parametrize("name", ["large", "small-03"])
def test_random_reads(mounted: Lab, name: str) -> None:
    seed, whole = random.Random(5), (mounted.model / name).read_bytes()
    fd = os.open(mounted.mount_point / name, os.O_RDONLY)
    try:
        for _ in range(300):
            offset, size = seed.randrange(len(whole) + 100), seed.choice([1, 100, 4096, 5000, 70_000, 1 << 20])
            assert os.pread(fd, size, offset) == whole[offset : offset + size]
        assert os.lseek(fd, 0, os.SEEK_END) == len(whole)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0  # no holes, whatever the sparse file below has
        assert os.lseek(fd, 0, os.SEEK_HOLE) == len(whole)
    finally:
        os.close(fd)


def test_many_readers_of_one_file(mounted: Lab) -> None:
    whole, wrong = (mounted.model / "large").read_bytes(), []

    def reader(seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(30):
            with open(mounted.mount_point / "large", "rb", buffering=0) as f:
                offset = pick.randrange(len(whole))
                f.seek(offset)
                if f.read(100_000) != whole[offset : offset + 100_000]:
                    wrong.append((seed, offset))

    threads = [threading.Thread(target=reader, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert wrong == []


@pytest.mark.parametrize("name", ["large", "small-05", "one byte"])
def test_mmap(mounted: Lab, name: str) -> None:
    whole = (mounted.model / name).read_bytes()
    with open(mounted.mount_point / name, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
        assert m[:] == whole
        with pytest.raises(PermissionError):
            mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with open(mounted.mount_point / name, "rb") as f:
        m = mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    m[0] = 0  # a private copy, after the descriptor is closed
    assert m[1:] == whole[1:]
    m.close()
    assert (mounted.mount_point / name).read_bytes() == whole


def test_sendfile_and_splice(mounted: Lab, tmp_path: Path) -> None:
    whole = (mounted.model / "large").read_bytes()
    with open(mounted.mount_point / "large", "rb") as src, open(tmp_path / "copy", "wb") as dst:
        sent = 0
        while sent < len(whole):
            sent += os.sendfile(dst.fileno(), src.fileno(), sent, len(whole) - sent)
    assert (tmp_path / "copy").read_bytes() == whole
    shutil.copyfile(mounted.mount_point / "large", tmp_path / "again")  # copy_file_range or sendfile
    assert (tmp_path / "again").read_bytes() == whole


def test_direct_reads(mounted: Lab) -> None:
    whole = (mounted.model / "large").read_bytes()
    fd = os.open(mounted.mount_point / "large", os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, 2 << 20)
        for offset in (0, 1 << 20, 8 << 20):
            n = os.preadv(fd, [memoryview(buffer)[: 1 << 20]], offset)
            assert n == min(1 << 20, len(whole) - offset)
            assert buffer[:n] == whole[offset : offset + n]
    finally:
        os.close(fd)


def test_a_listing_survives_seeking_and_partial_reads(mounted: Lab) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    names, buffer = [], ctypes.create_string_buffer(600)
    fd = os.open(mounted.mount_point / "many", os.O_RDONLY | os.O_DIRECTORY)

    def page() -> list[tuple[int, bytes]]:
        n = libc.syscall(217, fd, buffer, 600)  # getdents64, a few entries a call
        assert n >= 0, os.strerror(ctypes.get_errno())
        out, at = [], 0
        while at < n:
            length = int.from_bytes(buffer.raw[at + 16 : at + 18], "little")
            off = int.from_bytes(buffer.raw[at + 8 : at + 16], "little")
            out.append((off, buffer.raw[at + 19 : at + length].split(b"\0")[0]))
            at += length
        return out

    try:
        while got := page():
            names += got
        assert sorted(n for _, n in names) == sorted([b".", b"..", *map(os.fsencode, os.listdir(mounted.model / "many"))])
        middle = 350
        os.lseek(fd, names[middle][0], os.SEEK_SET)
        assert page()[0] == names[middle + 1]
        os.lseek(fd, 0, os.SEEK_SET)
        assert page()[0] == names[0]
    finally:
        os.close(fd)


def test_xattrs(mounted: Lab) -> None:
    path = mounted.mount_point / "a" / "b" / "c" / "leaf"
    path.read_bytes()
    eventually(lambda: os.getxattr(path, "user.forebay.cached") == b"4")  # committed to the index
    values = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    assert values["user.forebay.store"] == os.fsencode(f"local://{mounted.model}")
    assert values["user.forebay.key"] == b"a/b/c/leaf"
    assert values["user.forebay.cached"] == b"4"
    assert values["user.forebay.version"]
    assert os.getxattr(mounted.mount_point / "a" / "b", "user.forebay.key") == b"a/b/"
    for name, number in (("user.none", errno.ENODATA), ("security.capability", errno.EOPNOTSUPP)):
        with pytest.raises(OSError, match=os.strerror(number)):
            os.getxattr(path, name)


def test_statfs(mounted: Lab) -> None:
    got = os.statvfs(mounted.mount_point)
    assert got.f_bsize == got.f_frsize == 4096
    assert 0 < got.f_bavail <= got.f_blocks
    assert got.f_namemax == 255
    assert got.f_flag & os.ST_RDONLY
    assert got.f_flag & os.ST_NOSUID


def test_every_change_is_refused(mounted: Lab, tmp_path: Path) -> None:
    m = mounted.mount_point
    file, folder = m / "one byte", m / "a"
    changes = {
        "create": lambda: os.open(m / "new", os.O_CREAT | os.O_WRONLY),
        "write": lambda: os.open(file, os.O_WRONLY),
        "read-write": lambda: os.open(file, os.O_RDWR),
        "append": lambda: os.open(file, os.O_WRONLY | os.O_APPEND),
        "truncating open": lambda: os.open(file, os.O_WRONLY | os.O_TRUNC),
        "truncate": lambda: os.truncate(file, 0),
        "unlink": lambda: os.unlink(file),
        "rmdir": lambda: os.rmdir(m / "nothing here"),
        "mkdir": lambda: os.mkdir(m / "new"),
        "mknod": lambda: os.mknod(m / "new"),
        "mkfifo": lambda: os.mkfifo(m / "new"),
        "symlink": lambda: os.symlink("x", m / "new"),
        "link": lambda: os.link(file, m / "new"),
        "rename": lambda: os.rename(file, m / "new"),
        "rename a folder": lambda: os.rename(folder, m / "new"),
        "chmod": lambda: os.chmod(file, 0o777),
        "chown": lambda: os.chown(file, 1, 1),
        "utime": lambda: os.utime(file),
        "setxattr": lambda: os.setxattr(file, "user.x", b"1"),
        "removexattr": lambda: os.removexattr(file, "user.forebay.key"),
    }
    wrong = {}
    for name, change in changes.items():
        try:
            change()
        except OSError as e:
            if e.errno != errno.EROFS:
                wrong[name] = e
        else:
            wrong[name] = "done"
    assert wrong == {}
    assert file.read_bytes() == b"1"


def test_locks_are_local(mounted: Lab) -> None:
    with open(mounted.mount_point / "one byte", "rb") as a, open(mounted.mount_point / "one byte", "rb") as b:
        fcntl.flock(a, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_program_of_the_system_walks_it(mounted: Lab) -> None:
    done = subprocess.run(
        ["diff", "-r", str(mounted.model), str(mounted.mount_point)], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    listed = subprocess.run(["ls", "-lR", str(mounted.mount_point)], capture_output=True, timeout=60, check=True)
    assert listed.stdout.count(b"entry number") == 700
    assert listed.stderr == b""


@pytest.mark.skipif(not CAN_EXEC, reason="this user may not execute the interpreter")
def test_readers_under_timer_signals_see_no_eintr(mounted: Lab) -> None:
    """A profiler's timer must not turn a slow read into an error."""
    code = (
        "import os,signal,sys\n"
        "signal.signal(signal.SIGALRM, lambda *_: None); signal.siginterrupt(signal.SIGALRM, False)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "for _ in range(20):\n"
        "  for n in sorted(os.listdir(sys.argv[1]))[:20]:\n"
        "    p = os.path.join(sys.argv[1], n)\n"
        "    if os.path.isfile(p):\n"
        "      f = os.open(p, os.O_RDONLY); os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED); os.read(f, 1<<20); os.close(f)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(mounted.mount_point)], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_read_ahead_is_raised(mounted: Lab) -> None:
    granted = mounted.granted()
    if ROOT:
        assert granted["readahead_kb"] >= 1024
    assert granted["max_read"] == 1 << 20


def test_memory_stays_small(mounted: Lab) -> None:
    assert mounted.daemon is not None
    status = Path(f"/proc/{mounted.daemon.pid}/status").read_text()
    anon = int(next(line for line in status.splitlines() if line.startswith("RssAnon:")).split()[1])
    assert anon < 60 << 10


@pytest.mark.skipif(not ROOT, reason="this is the ordinary user's run")
@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="fusermount3 is not installed (package fuse3)")
@pytest.mark.timeout(240)
def test_all_of_it_as_an_ordinary_user() -> None:
    """uid 65534 in a mount namespace of its own, where everybody may open /dev/fuse as on a machine with udev."""
    base = Path(tempfile.mkdtemp(prefix="forebay-user-", dir="/var/tmp"))
    base.chmod(0o755)
    script = (
        'set -e; mknod "$1/fuse" c 10 229; chmod 666 "$1/fuse"; mount --bind "$1/fuse" /dev/fuse\n'
        'exec setpriv --reuid=65534 --regid=65534 --clear-groups "$2" -P -m pytest -q -p no:cacheprovider '
        '--basetemp "$1/t/p" "$3"'
    )
    (base / "t").mkdir()
    os.chown(base / "t", 65534, 65534)
    env = {name: value for name, value in os.environ.items() if name != "CI"}  # this user lacks root, and that is meant
    env |= {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(base), sys.executable, __file__],
        env=env, capture_output=True, text=True, timeout=220, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    shutil.rmtree(base, ignore_errors=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
