"""The stores against real servers: nginx, moto's S3, and versitygw where there is one."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import KEY, SECRET, boto, moto, nginx, versitygw
from storekit import drain, entries, web

from forebay.api.spec import Mount
from forebay.cache.stores import open_store
from forebay.cache.stores.base import Changed, Denied, NotFound, Store

pytestmark = pytest.mark.cluster

BIG = os.urandom(5 << 20)
NAMES = [b"plain.txt", b"sp ace+plus%25&=?#;,'\"<>.txt", "ünï.txt".encode(), b"a:b", b"~tilde", b"back\\slash", b"x" * 255]


def fill(root: Path) -> None:
    (root / "dir" / "sub").mkdir(parents=True)
    (root / "dir" / "big").write_bytes(BIG)
    (root / "dir" / "empty").write_bytes(b"")
    (root / "dir" / "sub" / "z").write_bytes(b"z")
    (root / "names").mkdir()
    for name in NAMES:
        (root / "names" / os.fsdecode(name)).write_bytes(name)


def check_reads(store: Store, names: list[bytes] = NAMES) -> None:
    """What holds for any store of `fill`'s tree."""
    store.probe()
    assert {(e.name, e.is_dir) for e in entries(store, b"dir/")[0]} == {(b"big", False), (b"empty", False), (b"sub", True)}
    assert {e.name for e in entries(store, b"names/", 3)[0]} == set(names)
    for name in names:
        assert drain(store.whole(b"names/" + name)[1]) == name
        assert store.stat(b"names/" + name).size == len(name)
    entry = store.stat(b"dir/big")
    assert entry.size == len(BIG)
    assert drain(store.read(b"dir/big", entry.version, 12345, 1 << 20), 100_000) == BIG[12345 : 12345 + (1 << 20)]
    whole, body = store.whole(b"dir/big")
    assert (whole, drain(body)) == (entry, BIG)
    empty, body = store.whole(b"dir/empty")
    assert (empty.size, drain(body)) == (0, b"")
    assert [store.is_dir(k) for k in (b"dir", b"dir/sub", b"dir/big", b"nope")] == [True, True, False, False]
    for key in (b"nope", b"dir", b"dir/nope", b"dir/big/x"):
        with pytest.raises(NotFound):
            store.stat(key)

    failures: list[BaseException] = []

    def part(n: int) -> None:
        try:
            for offset in range(n << 18, len(BIG), 8 << 18):
                length = min(1 << 18, len(BIG) - offset)
                assert drain(store.read(b"dir/big", entry.version, offset, length)) == BIG[offset : offset + length]
        except BaseException as e:  # noqa: BLE001 - told below
            failures.append(e)

    threads = [threading.Thread(target=part, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


# -- nginx --


def test_nginx(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fill(root)
    raw = b"raw\xff\xfe\x01name"
    with open(os.path.join(os.fsencode(root), b"dir", raw), "wb") as f:
        f.write(raw)
    (root / "shut").mkdir()
    with nginx(
        root,
        tmp_path / "nginx",
        "location /shut/ { autoindex off; } location /norange/ { max_ranges 0; alias " + f"{root}/dir/; }}",
    ) as url:
        store = web(url + "/")
        assert drain(store.whole(b"dir/" + raw)[1]) == raw
        assert raw in {e.name for e in entries(store, b"dir/")[0]}
        os.unlink(os.path.join(os.fsencode(root), b"dir", raw))
        check_reads(store)
        assert store.strong
        version = store.stat(b"dir/big").version
        with pytest.raises(Denied):
            store.list(b"shut/")
        with pytest.raises(NotFound):
            store.list(b"nope/")
        assert drain(store.read(b"norange/big", version, 1 << 20, 100)) == BIG[1 << 20 : (1 << 20) + 100]
        assert drain(store.read(b"norange/big", version, (1 << 20) + 100, 100)) == BIG[(1 << 20) + 100 : (1 << 20) + 200]
        (root / "dir" / "big").write_bytes(BIG[:-1])
        with pytest.raises(Changed):
            store.read(b"dir/big", version, 0, 100)
        store.close()
        single = web(url + "/dir/big")
        assert [(e.name, e.size) for e in entries(single)[0]] == [(b"big", len(BIG) - 1)]
        assert drain(single.whole(b"big")[1]) == BIG[:-1]
        single.close()
        slashless = web(url + "/dir")
        assert {e.name for e in entries(slashless)[0]} == {b"big", b"empty", b"sub"}
        slashless.close()


# -- S3 --


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    with moto() as url:
        yield url


def s3_store(url: str, source: str = "s3://bucket", access: str = KEY, secret: str = SECRET, **options: str) -> Store:
    keys = {"access_key": access, "secret_key": secret} if access else {}
    return open_store(Mount(source, "s3", "/", "m", {"endpoint": url, **options}, keys))


def upload(client: Any, bucket: str, root: Path) -> None:
    for path in sorted(root.rglob("*")):
        if path.is_file():
            client.put_object(Bucket=bucket, Key=str(path.relative_to(root)), Body=path.read_bytes())


def test_moto(moto_url: str, tmp_path: Path) -> None:
    client = boto(moto_url)
    client.create_bucket(Bucket="bucket")
    fill(tmp_path)
    upload(client, "bucket", tmp_path)
    store = s3_store(moto_url)
    check_reads(store)
    assert store.strong
    listed = {e.name: e for e in entries(store, b"dir/")[0]}
    assert store.stat(b"dir/big").version == listed[b"big"].version
    client.put_object(Bucket="bucket", Key="dir/big", Body=BIG[:-1])
    with pytest.raises(Changed):
        store.read(b"dir/big", listed[b"big"].version, 0, 100)
    for key in ("odd/a", "odd/a/b", "odd//c", "odd/../d", "odd/", "odd/e!"):
        client.put_object(Bucket="bucket", Key=key, Body=b"x")
    found, skipped = entries(store, b"odd/", 1)
    assert ({(e.name, e.is_dir) for e in found}, skipped) == ({(b"a", True), (b"e!", False)}, 3)
    store.close()
    below = s3_store(moto_url, "s3://bucket/dir/")
    assert {e.name for e in entries(below)[0]} == {b"big", b"empty", b"sub"}
    below.close()


def test_moto_pages_of_many_keys(moto_url: str) -> None:
    client = boto(moto_url)
    client.create_bucket(Bucket="many")
    wanted = {b"k%03d" % n for n in range(100)}
    for name in wanted:
        client.put_object(Bucket="many", Key=name.decode(), Body=b"")
    store = s3_store(moto_url, "s3://many")
    for limit in (7, 99, 100, 5000):
        found, _ = entries(store, b"", limit)
        assert len(found) == len(wanted)
        assert {e.name for e in found} == wanted
    store.close()


def test_moto_no_such_bucket(moto_url: str) -> None:
    store = s3_store(moto_url, "s3://nobody-has-this")
    for call in (store.probe, lambda: store.list(b""), lambda: store.stat(b"x"), lambda: store.whole(b"x")):
        with pytest.raises(Denied, match="no such bucket"):
            call()
    store.close()


@pytest.mark.skipif(
    not (os.environ.get("FOREBAY_VERSITYGW") or shutil.which("versitygw")),
    reason="no versitygw on PATH (make bench installs one); moto covers the same calls",
)
def test_versitygw(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    fill(tmp_path / "bucket")
    with versitygw(tmp_path) as url:
        plain = s3_store(url)
        check_reads(plain)  # files that no client ever wrote have no tag
        assert not plain.strong
        plain.close()
        (tmp_path / "bucket" / "names" / NAMES[-1].decode()).unlink()  # it can serve such a name, but not take it
        client = boto(url)
        upload(client, "bucket", tmp_path / "bucket")
        store = s3_store(url)
        check_reads(store, NAMES[:-1])
        assert store.strong
        version = store.stat(b"dir/big").version
        client.put_object(Bucket="bucket", Key="dir/big", Body=BIG[:-1])
        with pytest.raises(Changed):
            store.read(b"dir/big", version, 0, 100)
        store.close()
        for access, secret, source, says in (
            (KEY, "wrong", "s3://bucket", "secret"),
            ("wrong", SECRET, "s3://bucket", "access key"),
            ("", "", "s3://bucket", "not public"),
            (KEY, SECRET, "s3://nope", "no such bucket"),
        ):
            refused = s3_store(url, source, access, secret, **({} if access else {"anonymous": "true"}))
            for call in (refused.probe, lambda s=refused: s.list(b""), lambda s=refused: s.stat(b"dir/nope")):
                with pytest.raises(Denied, match=says if call == refused.probe else "."):
                    call()
            refused.close()
