"""The file store on a real directory: names, pages, links, special files, changes under the reader."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storekit import drain, entries, folder

from forebay.api.spec import Mount
from forebay.cache.stores import open_store
from forebay.cache.stores.base import BadReply, Changed, Denied, NotFound, Unavailable
from forebay.cache.stores.dirents import read_names
from forebay.cache.stores.file import FileStore, root_of
from forebay.cache.stores.names import usable

BIG = os.urandom(3 << 20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "dir" / "sub").mkdir(parents=True)
    (root / "dir" / "big").write_bytes(BIG)
    (root / "dir" / "empty").write_bytes(b"")
    (root / "dir" / "sub" / "z").write_bytes(b"z")
    (tmp_path / "outside").write_bytes(b"secret")
    return root


@pytest.fixture(params=["openat2", "without openat2"])
def store(root: Path, request: pytest.FixtureRequest) -> Iterator[FileStore]:
    opened = FileStore(os.fsencode(root))
    if request.param != "openat2":
        opened._beneath = False
    yield opened
    opened.close()


def test_list_stat_read(store: FileStore, root: Path) -> None:
    store.probe()
    found, skipped = entries(store, b"dir/", 1)
    assert skipped == 0
    assert {(e.name, e.is_dir, e.size) for e in found} == {(b"big", False, len(BIG)), (b"empty", False, 0), (b"sub", True, -1)}
    listed = {e.name: e for e in found}
    entry = store.stat(b"dir/big")
    assert entry == listed[b"big"]
    assert entry.mtime_ns == (root / "dir" / "big").stat().st_mtime_ns
    assert drain(store.read(b"dir/big", entry.version, 1000, 5000), 999) == BIG[1000:6000]
    whole, body = store.whole(b"dir/big")
    assert whole == entry
    assert drain(body) == BIG
    whole, body = store.whole(b"dir/empty")
    assert (whole, drain(body)) == (listed[b"empty"], b"")
    assert drain(store.read(b"dir/empty", whole.version, 0, 0)) == b""
    assert [store.is_dir(key) for key in (b"dir", b"dir/sub", b"dir/big", b"nope", b"..")] == [True, True, False, False, False]


@pytest.mark.parametrize(
    "key", [b"nope", b"dir", b"dir/", b"../outside", b"dir/../../outside", b"/etc/passwd", b"dir//big", b"a\0b", b"x" * 256]
)
def test_what_is_not_there(store: FileStore, key: bytes) -> None:
    with pytest.raises(NotFound) as caught:
        store.stat(key)
    assert str(caught.value).startswith("local://")
    with pytest.raises(NotFound):
        store.whole(key)


def test_directories_that_are_not_there(store: FileStore) -> None:
    for prefix in (b"nope/", b"dir/big/", b"../", b"dir/../"):
        with pytest.raises(NotFound):
            store.list(prefix)


names = st.binary(min_size=1, max_size=20).filter(usable)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(names, st.booleans(), max_size=12), st.integers(1, 5))
def test_any_name(tmp_path_factory: pytest.TempPathFactory, tree: dict[bytes, bool], size: int) -> None:
    root = tmp_path_factory.mktemp("names")
    for name, is_dir in tree.items():
        path = os.path.join(os.fsencode(root), name)
        if is_dir:
            os.mkdir(path)
        else:
            with open(path, "wb") as f:
                f.write(name)
    store = folder(root)
    found, skipped = entries(store, b"", size)
    assert ({(e.name, e.is_dir) for e in found}, len(found), skipped) == (set(tree.items()), len(tree), 0)
    for name, is_dir in tree.items():
        if not is_dir:
            assert drain(store.whole(name)[1]) == name
    store.close()


def test_a_large_directory_in_pages_that_anybody_goes_on_from(root: Path) -> None:
    wanted = {f"file-{n:05d}".encode() for n in range(3000)}
    for name in wanted:
        (root / os.fsdecode(name)).touch()
    found: list[bytes] = []
    token, pages = None, 0
    while True:
        store = folder(root)  # a new process each time
        page = store.list(b"", token, 400)
        store.close()
        assert len(page.entries) <= 400
        found += [e.name for e in page.entries if not e.is_dir]
        pages += 1
        for gone in found[:3]:  # what comes and goes meanwhile moves nothing else
            (root / os.fsdecode(gone)).unlink(missing_ok=True)
        token = page.token
        if token is None:
            break
    assert pages >= 7
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_read_names_like_scandir(root: Path) -> None:
    fd = os.open(root / "dir", os.O_RDONLY | os.O_DIRECTORY)
    try:
        found, cookie = read_names(fd, 0, 1000)
        assert (sorted(found), cookie) == (sorted(os.listdir(os.fsencode(root / "dir"))), -1)
        first, cookie = read_names(fd, 0, 2)
        assert len(first) == 2
        rest, end = read_names(fd, cookie, 1000)
        assert (sorted(first + rest), end) == (sorted(found), -1)
    finally:
        os.close(fd)


def test_foreign_and_outlived_tokens(store: FileStore, root: Path) -> None:
    token = store.list(b"dir/", None, 1).token
    assert token is not None
    with pytest.raises(BadReply, match="token"):
        store.list(b"dir/", b"what", 1)
    shutil.move(root / "dir", root / "old")
    (root / "dir").mkdir()
    with pytest.raises(Changed, match="took its place"):
        store.list(b"dir/", token, 1)


def test_symbolic_links(store: FileStore, root: Path, tmp_path: Path) -> None:
    links = {
        "inside": "dir/big",
        "inside-dir": "dir/sub",
        "deep/up": "../dir/sub/z",
        "absolute-inside": str(root / "dir" / "sub" / "z"),
        "chain": "inside",
        "outside": "../outside",
        "absolute-outside": str(tmp_path / "outside"),
        "dangling": "nowhere",
        "self": "self",
        "deep/there-and-back": f"../../{root.name}/dir/big",
        "loop": ".",
        "dir/sub/loop": "../..",
        "proc": "/proc/self/root",
        "device": "/dev/null",
    }
    (root / "deep").mkdir()
    for name, target in links.items():
        (root / name).symlink_to(target)
    found, skipped = entries(store)
    assert {(e.name, e.is_dir) for e in found} == {
        (b"dir", True),
        (b"deep", True),
        (b"inside", False),
        (b"inside-dir", True),
        (b"absolute-inside", False),
        (b"chain", False),
    }
    assert skipped == 7
    found, skipped = entries(store, b"deep/")
    assert ({e.name for e in found}, skipped) == ({b"up", b"there-and-back"}, 0)  # where a target lies counts, not the way
    assert ({e.name for e in entries(store, b"dir/sub/")[0]}, entries(store, b"dir/sub/")[1]) == ({b"z"}, 1)
    assert ({e.name for e in entries(store, b"inside-dir/")[0]}, entries(store, b"inside-dir/")[1]) == ({b"z"}, 1)
    assert drain(store.whole(b"inside")[1]) == BIG
    assert drain(store.whole(b"absolute-inside")[1]) == b"z"
    assert drain(store.whole(b"inside-dir/z")[1]) == b"z"
    assert store.stat(b"inside").version == store.stat(b"dir/big").version
    for key in (b"outside", b"absolute-outside", b"dangling", b"self", b"proc/etc/passwd", b"device"):
        with pytest.raises(NotFound):
            store.stat(key)
        with pytest.raises(NotFound):
            store.read(key, b"", 0, 1)


def test_mutual_links_end(store: FileStore, root: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (root / name).mkdir()
        (root / name / "to").symlink_to(f"../{other}")
    seen: list[bytes] = []

    def walk(prefix: bytes) -> None:
        seen.append(prefix)
        assert len(seen) < 50
        for entry in entries(store, prefix)[0]:
            if entry.is_dir:
                walk(prefix + entry.name + b"/")

    walk(b"")
    assert b"a/to/" in seen
    assert b"a/to/to/" not in seen


def test_special_files_are_skipped_and_never_opened(store: FileStore, root: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        found, skipped = entries(store)
        assert ([e.name for e in found], skipped) == ([b"dir"], 2)
        started = time.monotonic()
        for key in (b"pipe", b"socket"):
            with pytest.raises(NotFound):
                store.whole(key)
        assert time.monotonic() - started < 30, "an open of a pipe waits for a writer"


def test_a_changed_file(store: FileStore, root: Path) -> None:
    entry = store.stat(b"dir/big")
    body = store.read(b"dir/big", entry.version, 0, len(BIG))
    piece = memoryview(bytearray(1 << 20))
    assert body.readinto(piece) == 1 << 20
    with open(root / "dir" / "big", "r+b") as f:
        f.write(b"x")
    with pytest.raises(Changed):
        body.readinto(piece)
    body.close()
    with pytest.raises(Changed):
        store.read(b"dir/big", entry.version, 0, 1)


def test_a_replaced_and_a_cut_file(store: FileStore, root: Path) -> None:
    entry = store.stat(b"dir/big")
    body = store.read(b"dir/big", entry.version, 0, len(BIG))
    (root / "new").write_bytes(BIG)
    (root / "new").rename(root / "dir" / "big")
    assert drain_or_changed(body)  # the old inode is still whole, but its ctime moved when its last name went
    with pytest.raises(Changed):
        store.read(b"dir/big", entry.version, 0, 1)
    entry = store.stat(b"dir/big")
    body = store.read(b"dir/big", entry.version, 0, len(BIG))
    os.truncate(root / "dir" / "big", 100)
    with pytest.raises(Changed):
        drain(body)
    with pytest.raises(BadReply, match="100"):
        store.read(b"dir/big", store.stat(b"dir/big").version, 0, 101)


def drain_or_changed(body: object) -> bool:
    try:
        return drain(body) == BIG  # type: ignore[arg-type]
    except Changed:
        return True


def test_a_version_never_names_two_states(store: FileStore, root: Path) -> None:
    """A writer that rewrites in place as fast as it can, within one clock tick: equal versions must mean equal bytes."""
    path = root / "hot"
    path.write_bytes(b"\0" * 64)
    stop = threading.Event()

    def write() -> None:
        value = 0
        with open(path, "r+b", buffering=0) as f:
            while not stop.is_set():
                value = (value + 1) % 256
                f.seek(0)
                f.write(bytes([value]) * 64)
                time.sleep(0.0005 if value % 16 else 0.15)

    writer = threading.Thread(target=write)
    writer.start()
    seen: dict[bytes, bytes] = {}
    try:
        began = time.monotonic()
        while (lasted := time.monotonic() - began) < 3 or (len(seen) <= 3 and lasted < 60):
            try:
                entry, body = store.whole(b"hot")
                data = drain(body)
            except Changed:
                continue
            assert seen.setdefault(entry.version, data) == data
    finally:
        stop.set()
        writer.join(60)
    assert len(seen) > 3


def test_a_body_closed_early_says_so(store: FileStore) -> None:
    body = store.read(b"dir/big", store.stat(b"dir/big").version, 0, 100)
    body.close()
    with pytest.raises(Unavailable):
        body.readinto(memoryview(bytearray(10)))


def test_no_descriptor_is_left_open(store: FileStore, root: Path) -> None:
    store.probe()
    before = len(os.listdir("/proc/self/fd"))
    entry = store.stat(b"dir/big")
    for _ in range(5):
        drain(store.read(b"dir/big", entry.version, 0, 10))
        store.read(b"dir/big", entry.version, 0, 10).close()
        entries(store, b"dir/", 1)
        store.is_dir(b"dir")
        for bad in (b"nope", b"dir", b"../outside"):
            with pytest.raises(NotFound):
                store.whole(bad)
        with pytest.raises(Changed):
            store.read(b"dir/big", b"other", 0, 10)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_root_that_is_gone_makes_nothing_absent(store: FileStore, root: Path) -> None:
    assert store.stat(b"dir/big").size == len(BIG)
    root.rename(root.with_name("away"))
    (root.with_name("away") / "dir" / "big").unlink()
    with pytest.raises(Unavailable, match="cannot open"):
        store.stat(b"dir/big")
    root.mkdir()
    (root / "new").write_bytes(b"new")
    assert drain(store.whole(b"new")[1]) == b"new"
    with pytest.raises(NotFound):
        store.stat(b"dir/big")


def test_a_root_that_never_was(tmp_path: Path) -> None:
    store = folder(tmp_path / "nope")
    for call in (store.probe, lambda: store.list(b""), lambda: store.stat(b"x")):
        with pytest.raises(Unavailable, match="correct the path"):
            call()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="Not a directory"):
        folder(tmp_path / "file").probe()


def two_views(root: Path) -> tuple[Path, Path]:
    """One tree as two nodes see it: with other inodes and ctimes, as copies or mounts of a network file system have."""
    other = root.with_name("other")
    shutil.copytree(root, other)  # times too
    return root, other


def test_nodes_that_share_a_directory_agree_on_its_versions(root: Path) -> None:
    one, two = two_views(root)
    alone = [FileStore(os.fsencode(view)).stat(b"dir/big").version for view in (one, two)]
    assert alone[0] != alone[1]
    here, there = (FileStore(os.fsencode(view), shared=True) for view in (one, two))
    assert FileStore(os.fsencode(root)).strong
    assert not here.strong
    assert entries(here, b"dir/") == entries(there, b"dir/")
    entry = here.stat(b"dir/big")
    assert there.stat(b"dir/big") == entry == here.whole(b"dir/big")[0]
    assert drain(there.read(b"dir/big", entry.version, 7, 70_000)) == BIG[7:70_007]
    (two / "dir/big").write_bytes(BIG[::-1])
    with pytest.raises(Changed, match="list it again"):
        there.read(b"dir/big", entry.version, 0, 1)


def test_a_shared_file_that_is_written_while_it_is_read_is_noticed_though_its_version_is_kept(root: Path) -> None:
    store, path = FileStore(os.fsencode(root), shared=True), root / "dir/big"
    before = path.stat()
    entry, body = store.whole(b"dir/big")
    body.readinto(memoryview(bytearray(1000)))
    path.write_bytes(BIG[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.stat(b"dir/big").version == entry.version
    with pytest.raises(Changed, match="written while it was read"):
        body.readinto(memoryview(bytearray(1000)))


def test_whether_a_mount_is_shared_is_an_option(root: Path) -> None:
    for said, strong in (({}, True), ({"shared": "false"}, True), ({"shared": "true"}, False)):
        assert open_store(Mount(f"local://{root}", "file", "/", "m", said)).strong is strong


@pytest.fixture
def nobodys_view() -> Iterator[Path]:
    """A directory that an ordinary user reaches, read as one: root, who may read everything, steps down for the test."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = Path(name)
        (folder / "shut").mkdir(mode=0)
        (folder / "file").write_bytes(b"x")
        (folder / "file").chmod(0)
        me = os.geteuid()
        try:
            if me == 0:
                os.seteuid(65534)
            yield folder
        finally:
            os.seteuid(me)
            (folder / "shut").chmod(0o700)


def test_what_this_user_may_not_read(nobodys_view: Path) -> None:
    store = folder(nobodys_view)
    with pytest.raises(Denied, match="may not read"):
        store.whole(b"file")
    with pytest.raises(Denied):
        store.list(b"shut/")
    assert {e.name for e in entries(store)[0]} == {b"shut", b"file"}
    with pytest.raises(Denied):
        folder(nobodys_view / "shut").probe()
    store.close()


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("local:///srv/data", b"/srv/data"),
        ("local:///srv/data/", b"/srv/data"),
        ("local:///srv/a%20b", b"/srv/a%20b"),
        ("file:///srv/a%20b", b"/srv/a b"),
        ("file://localhost/srv", b"/srv"),
        ("local:///srv/../etc", b"/etc"),
        ("local:///", b"/"),
    ],
)
def test_sources(source: str, path: bytes) -> None:
    assert root_of(source, "m") == path


@pytest.mark.parametrize("source", ["local://srv", "file://host/srv", "local://", "srv", "file:///a%00b"])
def test_sources_that_name_no_directory(source: str) -> None:
    with pytest.raises(ValueError, match="no absolute directory"):
        open_store(Mount(source, "file", "/", "m"))
