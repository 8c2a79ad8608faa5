"""The supervisor's pieces that touch processes and sockets, without a mount."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.fuse.supervision import control, leftovers, processes, rundir
from forebay.fuse.supervision.shell import Mount


def wait_for(pid: int, go: int | None = None) -> int | None:
    """`go`: what a process waits for that must not end before it is looked at: the end of this pipe."""
    pidfd = os.pidfd_open(pid)
    try:
        if go is not None:
            os.close(go)
        with selectors.DefaultSelector() as selector:
            selector.register(pidfd, selectors.EVENT_READ)
            assert selector.select(60), "the process did not end"
        return processes.reap(pidfd)
    finally:
        os.close(pidfd)


def test_spawn_passes_what_is_named_and_nothing_else(tmp_path: Path) -> None:
    """From a process of its own: what pytest holds open and inheritable is not the question."""
    log = tmp_path / "log"
    inner = (
        "import os; fds = sorted(int(f) for f in os.listdir('/proc/self/fd')); os.write(3, b'through 3');"
        "print(fds, os.readlink('/proc/self/fd/0'), os.getsid(0) == os.getpid())"
    )
    outer = f"""if True:
        import os, sys
        from forebay.fuse.supervision import processes
        r, w = os.pipe()
        stray = [os.open('/dev/null', os.O_RDONLY) for _ in range(5)]
        pid = processes.spawn([sys.executable, "-c", {inner!r}], {str(log)!r}, (w,))
        assert os.waitpid(pid, 0)[1] == 0
        assert os.read(r, 100) == b"through 3"
    """
    subprocess.run([sys.executable, "-P", "-c", outer], check=True, timeout=60)
    said = log.read_text()
    assert json.loads(said[: said.index("]") + 1]) == [0, 1, 2, 3, 4], "4 is the directory that is listed"
    assert "/dev/null True" in said
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(2)", 2), ("import os; os.kill(os.getpid(), 9)", -9)])
def test_reap(tmp_path: Path, code: str, status: int) -> None:
    assert wait_for(processes.spawn([sys.executable, "-c", code], str(tmp_path / "log"))) == status


def test_reap_of_a_stranger_is_none(tmp_path: Path) -> None:
    """A grandchild that was orphaned: its end is seen, its status is not ours."""
    r, w = os.pipe()
    gate, go = os.pipe()
    child = os.fork()
    if child == 0:
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(gate, 1)
            os._exit(7)
        os.write(w, str(pid).encode())
        os._exit(0)
    os.waitpid(child, 0)
    pid = int(os.read(r, 20))
    for fd in (r, w, gate):
        os.close(fd)
    assert wait_for(pid, go) is None


def test_same_process_tells_a_reused_pid() -> None:
    me = processes.start_ticks(os.getpid())
    assert me is not None
    assert processes.same_process(os.getpid(), me)
    assert not processes.same_process(os.getpid(), me + 1)
    assert not processes.same_process(2**22 + 1, None)


def test_zombie_is_no_process(tmp_path: Path) -> None:
    pid = processes.spawn([sys.executable, "-c", ""], str(tmp_path / "log"))
    pidfd = os.pidfd_open(pid)
    with selectors.DefaultSelector() as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        selector.select(60)
    assert processes.start_ticks(pid) is None
    os.close(pidfd)
    os.waitpid(pid, 0)


def test_probe_of_a_directory_answers(tmp_path: Path) -> None:
    assert wait_for(processes.probe_mount(str(tmp_path))) == processes.ANSWERS


def test_holders_names_open_files(tmp_path: Path) -> None:
    log = tmp_path / "log"
    top = tmp_path / "tree"
    top.mkdir()
    (top / "file").write_text("x")
    code = f"import signal; f=open({str(top / 'file')!r}); print('open', flush=True); signal.pause()"
    pid = processes.spawn([sys.executable, "-c", code], str(log))
    try:
        while "open" not in (log.read_text() if log.exists() else ""):
            time.sleep(0.01)
        (said,) = processes.holders(str(top))
        assert f"pid {pid}" in said
        assert str(top / "file") in said
        assert processes.holders(str(tmp_path / "tre")) == []
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_last_line_and_trim(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert processes.last_line(str(log)) == ""
    log.write_text("Traceback\n  File x\nValueError: why\n\n")
    assert processes.last_line(str(log)) == "ValueError: why"
    with open(log, "wb") as f:
        f.write(b"a" * processes.LOG_LIMIT + b"the end\n")
    processes.trim_log(str(log))
    assert log.stat().st_size == 0
    kept = Path(f"{log}.1").read_bytes()
    assert kept.endswith(b"the end\n")
    assert len(kept) <= processes.LOG_LIMIT


class Loop:
    """A control server in a thread that answers with what it got."""

    def __init__(self, path: str) -> None:
        self.selector = selectors.DefaultSelector()
        self.got: list[tuple[dict[str, object], int]] = []
        self.server = control.Server(path, self.selector, self.serve)
        self.running = True
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def serve(self, peer: socket.socket, message: dict[str, object], fds: list[int]) -> None:
        self.got.append((message, len(fds)))
        for fd in fds:
            os.close(fd)
        if message.get("op") != "silent":
            self.server.send(peer, {"echo": message})

    def run(self) -> None:
        while self.running:
            for key, _ in self.selector.select(0.05):
                key.data()

    def close(self) -> None:
        self.running = False
        self.thread.join()
        self.server.close()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[tuple[Loop, str]]:
    deep = tmp_path / ("d" * 60) / ("e" * 60)  # deeper than a socket's address can be
    deep.mkdir(parents=True)
    path = str(deep / "s.sock")
    loop = Loop(path)
    try:
        yield loop, path
    finally:
        loop.close()


def test_control_asks_and_passes_descriptors(loop: tuple[Loop, str]) -> None:
    server, path = loop
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert control.ask(path, {"op": "status"}, 60) == {"echo": {"op": "status"}}
    r, w = os.pipe()
    assert control.ask(path, {"op": "adopt"}, 60, [r, w]) == {"echo": {"op": "adopt"}}
    os.close(r)
    os.close(w)
    assert server.got[-1] == ({"op": "adopt"}, 2)
    assert control.listening_pid(path) == os.getpid()


def test_control_has_a_deadline_and_says_so(loop: tuple[Loop, str]) -> None:
    _, path = loop
    with pytest.raises(control.Silence, match="no answer within"):
        control.ask(path, {"op": "silent"}, 0.3)
    with pytest.raises(control.Silence, match="no supervisor listens"):
        control.ask(path + "x", {"op": "status"}, 1)


def test_control_drops_who_talks_nonsense(loop: tuple[Loop, str]) -> None:
    server, path = loop
    from forebay.api.places import socket_address

    for packet in (b"\xff\xfe", b"[1]", b"3"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock, socket_address(path) as address:
            sock.settimeout(60)
            sock.connect(address)
            sock.send(packet)
            assert sock.recv(100) == b""
    assert control.ask(path, {"op": "status"}, 60)
    assert len(server.got) == 1


def test_control_bounds_its_peers(loop: tuple[Loop, str]) -> None:
    _, path = loop
    from forebay.api.places import socket_address

    socks = []
    with socket_address(path) as address:
        for _ in range(control.MAX_PEERS + 3):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(address)
            sock.settimeout(60)
            socks.append(sock)
    try:
        for sock in socks[-3:]:
            assert sock.recv(10) == b"", "one too many is hung up on"
    finally:
        for sock in socks:
            sock.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            assert control.ask(path, {"op": "status"}, 1)
            return
        except control.Silence:
            time.sleep(0.05)
    raise AssertionError("the server did not recover")


def test_lock_is_one_and_ends_with_its_holder(tmp_path: Path) -> None:
    run = str(tmp_path)
    with pytest.raises(FileNotFoundError):
        rundir.lock(run, create=False)
    first = rundir.lock(run, create=True)
    assert first is not None
    assert rundir.lock(run, create=True) is None
    os.close(first)
    second = rundir.lock(run, create=False)
    assert second is not None
    os.close(second)


def test_replace_file_is_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    rundir.replace_file(str(path), b"one")
    rundir.replace_file(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_leftover_processes_are_found_by_their_run_directory(tmp_path: Path) -> None:
    code = "import signal; print('up', flush=True); signal.pause()"
    log = tmp_path / "log"
    pid = processes.spawn([sys.executable, "-c", code, "-m", "forebay.cache.worker", "--run-dir", str(tmp_path)], str(log))
    try:
        while "up" not in (log.read_text() if log.exists() else ""):
            time.sleep(0.01)
        assert leftovers.processes_of(str(tmp_path)) == [leftovers.Process(pid, "worker")]
        assert leftovers.processes_of(str(tmp_path) + "x") == []
        reaper = threading.Thread(target=os.waitpid, args=(pid, 0))
        reaper.start()
        assert leftovers.end(leftovers.processes_of(str(tmp_path)), grace=60) == []
        reaper.join(60)
        assert leftovers.processes_of(str(tmp_path)) == []
    finally:
        if processes.start_ticks(pid) is not None:
            os.kill(pid, signal.SIGKILL)


def test_mount_points_of_a_state_file(tmp_path: Path) -> None:
    assert rundir.mount_points(str(tmp_path)) == set()
    (tmp_path / "state.json").write_text("{broken")
    assert rundir.mount_points(str(tmp_path)) == set()
    state = {"mounts": [{"path": str(tmp_path / "m"), "created": [str(tmp_path), str(tmp_path / "m")]}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert rundir.mount_points(str(tmp_path)) == {os.path.realpath(tmp_path) + "/m"}
    assert rundir.created_for_mounts(str(tmp_path)) == [str(tmp_path / "m"), str(tmp_path)]


def test_a_detached_mount_does_not_look_like_a_dead_supervisor() -> None:
    """A daemon whose link ends asks for a successor and waits for it 10 s: `down` would have to kill it."""
    mount = Mount(0, "/m")
    mount.device = os.open("/dev/null", os.O_RDONLY)
    device, (mount.link, theirs) = mount.device, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mount.link, theirs:
        mount.let_go()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(device)
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
