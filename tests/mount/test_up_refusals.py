"""What `forebay up` refuses, with the sentence it says; after each refusal nothing is left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import free_port
from up_place import Place, make_place

pytestmark = [pytest.mark.mount, pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine")]


@pytest.fixture
def place() -> Iterator[Place]:
    yield from make_place()


def refused(place: Place, *args: str, code: int = 1) -> str:
    """stderr of an `up` that must fail: a sentence of ours, no traceback, nothing left."""
    done = place.up(*args)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(("forebay: ", "Usage: ", str(place.top))), done.stderr
    return done.stderr


def write(place: Place, point: str, extra: str = "", tail: str = "") -> None:
    place.yaml.write_text(place.manifest("data", point, extra) + tail)


def test_mount_point_not_empty(place: Place) -> None:
    place.mnt.mkdir()
    (place.mnt / "something").touch()
    said = refused(place)
    assert f"{place.mnt} is not empty" in said
    assert "something" in said
    place.assert_nothing_left()
    assert (place.mnt / "something").exists()


def test_mount_point_is_a_file(place: Place) -> None:
    place.mnt.touch()
    assert "is no directory" in refused(place)


def test_mount_point_in_use_by_another_mount(place: Place) -> None:
    place.mnt.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place.mnt)], check=True)
    try:
        said = refused(place)
        assert "in use" in said
        assert "tmpfs" in said
    finally:
        subprocess.run(["umount", str(place.mnt)], check=True)


def test_mount_point_in_use_by_another_dataset(place: Place) -> None:
    assert place.up().returncode == 0
    place.yaml.write_text(place.manifest("other", f"local://{place.origin}/sub"))
    said = refused(place)
    assert "in use by dataset default/data" in said
    assert "forebay down default/data" in said
    assert place.status()["phase"] == "up"


def test_dataset_already_up(place: Place) -> None:
    assert place.up().returncode == 0
    said = refused(place)
    assert "already up" in said
    assert str(place.mnt) in said
    assert "forebay down data" in said
    assert place.status()["phase"] == "up"


def test_cache_directory_in_use(place: Place) -> None:
    """The same dataset from a second run directory, as another user of the machine might start it."""
    assert place.up().returncode == 0
    worker = place.pid("worker")
    env = {**place.env, "FOREBAY_RUN_DIR": f"{place.top}/run2"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "forebay.cli.main", "up", "-f", str(place.yaml), "--mount", f"{place.top}/mnt2",
         "--cache-dir", str(place.cache)],
        env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert str(worker) in done.stderr
    assert not Path(f"{place.top}/mnt2").exists()
    assert not list(Path(f"{place.top}/run2").rglob("*"))
    assert same(place)


def same(place: Place) -> bool:
    return (place.mnt / "big").read_bytes() == (place.origin / "big").read_bytes()


def test_cache_inside_the_mount_and_mount_inside_the_origin(place: Place) -> None:
    done = place("up", "-f", str(place.yaml), "--mount", str(place.mnt), "--cache-dir", f"{place.mnt}/cache")
    assert done.returncode == 1
    assert "inside the mount" in done.stderr
    done = place("up", "-f", str(place.yaml), "--mount", f"{place.origin}/here", "--cache-dir", str(place.cache))
    assert done.returncode == 1
    assert "inside each other" in done.stderr
    assert not (place.origin / "here").exists()


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("gopher://host/tree", ["gopher"]),
        ("local:///no/such/directory/anywhere", ["/no/such/directory/anywhere"]),
    ],
)
def test_unknown_scheme_and_missing_directory(place: Place, point: str, words: list[str]) -> None:
    write(place, point)
    said = refused(place)
    for word in words:
        assert word in said
    place.assert_nothing_left()


def test_closed_port_is_named(place: Place) -> None:
    port = free_port()
    write(place, f"http://127.0.0.1:{port}/tree/")
    begun = time.monotonic()
    said = refused(place)
    assert f"127.0.0.1:{port}" in said
    assert time.monotonic() - begun < 60
    place.assert_nothing_left()


def test_silent_endpoint_is_named_within_10_s(place: Place) -> None:
    """Six of them at once: the bound is for all mounts together. One after the other they would take a minute."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)  # connects, and never answers
        port = sock.getsockname()[1]
        place.yaml.write_text(
            place.manifest("data", f"http://127.0.0.1:{port}/a/").replace("path: /", "path: /a")
            + "".join(f"  - mountPoint: http://127.0.0.1:{port}/{x}/\n    path: /{x}\n    name: {x}\n" for x in "bcdef")
        )
        begun = time.monotonic()
        said = refused(place)
        took = time.monotonic() - begun
    for x in "abcdef":
        assert f"127.0.0.1:{port}/{x}/" in said
    assert took < 50, "10 s for the stores, and what a loaded machine takes to start Python"
    place.assert_nothing_left()


def test_unreachable_store_with_a_warm_cache_is_a_warning(place: Place) -> None:
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, directory=str(place.origin), **kwargs)  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None: ...

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None: ...  # clients may hang up in the middle of a body

    server = Server(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    write(place, f"http://127.0.0.1:{server.server_port}/", "    options: {forebay.io/freshness: immutable}\n")
    try:
        assert place.up().returncode == 0
        warmed = place("warm", "data")
        assert warmed.returncode == 0, warmed.stderr
        assert place("down").returncode == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    done = place.up()
    assert done.returncode == 0, done.stderr
    assert f"127.0.0.1:{server.server_port}" in done.stderr
    assert same(place)


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    """An S3 server that checks signatures: every key is unknown to it."""
    pytest.importorskip("moto.server")
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    import boto3

    boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    ).create_bucket(Bucket="there")
    try:
        yield port
    finally:
        child.terminate()
        child.wait(60)


SECRET = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {id: AKIAWRONG, secret: not-the-secret-6b1f}\n"
KEYS = (
    "    options: {{endpoint: 'http://127.0.0.1:{port}', region: us-east-1}}\n    encryptOptions:\n"
    "    - {{name: access_key, valueFrom: {{secretKeyRef: {{name: keys, key: id}}}}}}\n"
    "    - {{name: secret_key, valueFrom: {{secretKeyRef: {{name: keys, key: secret}}}}}}\n"
)


def test_wrong_credentials(place: Place, moto: int) -> None:
    write(place, "s3://there", KEYS.format(port=moto), SECRET)
    said = refused(place)
    assert "s3://there" in said
    assert "not-the-secret-6b1f" not in said
    place.assert_nothing_left()


def test_no_such_bucket() -> None:
    """On a server that lets everybody in."""
    for place in make_place():
        port = free_port()
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with socket.socket() as sock:
                    if sock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            write(place, "s3://nowhere", KEYS.format(port=port), SECRET)
            said = refused(place)
            assert "nowhere" in said
            place.assert_nothing_left()
        finally:
            child.terminate()
            child.wait(60)


def test_second_of_two_fails_and_the_first_is_taken_back(place: Place) -> None:
    blocked = place.top / "blocked.yaml"
    # a tier directory that is a file: the worker itself finds out
    (place.top / "file").touch()
    blocked.write_text(
        place.manifest("second", f"local://{place.origin}/sub")
        + "---\napiVersion: data.fluid.io/v1alpha1\nkind: AlluxioRuntime\nmetadata: {name: second}\nspec:\n  tieredstore:\n"
        f"    levels:\n    - {{mediumtype: SSD, path: {place.top}/file, quota: 1Gi}}\n"
    )
    done = place("up", "-f", str(place.yaml), "-f", str(blocked), "--mount", str(place.mnt))
    assert done.returncode == 1
    assert "default/second" in done.stderr
    assert f"{place.top}/file" in done.stderr
    place.assert_nothing_left()
    assert not place.mnt.exists()
    subprocess.run(["rm", "-rf", "/var/cache/forebay/default/data"], check=False)


def test_usage_errors_are_exit_code_2(place: Place) -> None:
    for args in (["up"], ["up", "-f", "/no/such/file.yaml"], ["upp"], ["cat"], ["ls", ":/x"], ["warm", "data:/../x"]):
        done = place(*args)
        assert done.returncode == 2, (args, done.stderr)
        assert "Traceback" not in done.stderr


def test_names_that_are_not_up(place: Place) -> None:
    for args in (["down", "nothing"], ["status", "nothing"], ["ls", "nothing"], ["cat", "nothing:/x"], ["warm", "nothing"]):
        done = place(*args)
        assert done.returncode == 1, args
        assert '"nothing" is not up' in done.stderr


def test_paths_that_do_not_exist(place: Place) -> None:
    assert place.up().returncode == 0
    done = place("cat", "data:/sub/nothing")
    assert done.returncode == 1
    assert "forebay ls data:/sub" in done.stderr
    done = place("cat", "data:/sub")
    assert done.returncode == 1
    assert "is a directory" in done.stderr
