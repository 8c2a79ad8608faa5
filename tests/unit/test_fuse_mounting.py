"""What is read from mountinfo, and the sentences of a mount that cannot be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from forebay.fuse import arguments, daemon, mounting

MOUNTINFO = "\n".join(
    [
        r"21 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard",
        r"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue",
        r"40 21 0:52 / /mnt/with\040space\011tab\134back ro,nosuid - fuse.forebay forebay:default/a\040b rw,user_id=0",
        r"41 21 0:53 / /var/lib/docker rw - overlay overlay rw,lowerdir=/a",
        "a line of another kind",
        "",
    ]
)


def test_mountinfo() -> None:
    found = list(mounting.parse_mountinfo(MOUNTINFO))
    assert [e.path for e in found] == ["/", "/mnt2", "/mnt/with space\ttab\\back", "/var/lib/docker"]
    ours = found[2]
    assert (ours.device, ours.fstype, ours.source, ours.options) == ("0:52", "fuse.forebay", "forebay:default/a b", "ro,nosuid")
    assert found[1].fstype == "ext3"  # optional fields before the dash vary


def test_names_that_are_not_utf8_survive() -> None:
    line = b"40 21 0:52 / /mnt/\xff ro - fuse.forebay x rw".decode("utf-8", "surrogateescape")
    assert os.fsencode(next(mounting.parse_mountinfo(line)).path) == b"/mnt/\xff"


def test_the_mounts_of_this_machine_are_found() -> None:
    assert mounting.find("/proc").fstype == "proc"
    assert mounting.find("/proc/self") is None
    assert mounting.find("/") is not None


def test_a_mount_point_must_be_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, number in ((tmp_path, errno.ENOTEMPTY), (tmp_path / "file", errno.ENOTDIR), (tmp_path / "no", errno.ENOENT)):
        with pytest.raises(mounting.MountError, match=str(path)) as e:
            mounting.mount(str(path), "forebay:default/x")
        assert e.value.errno == number


def test_unmounting_what_is_not_mounted_is_nothing(tmp_path: Path) -> None:
    mounting.umount(str(tmp_path))
    assert mounting.abort(str(tmp_path)) is False


def test_a_read_ahead_that_cannot_be_read_is_0() -> None:
    assert mounting.set_read_ahead("0:999999") == 0


def test_overlayfs_is_seen_through_the_longest_mount_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounting, "entries", lambda: mounting.parse_mountinfo(MOUNTINFO))
    assert daemon.on_overlayfs("/var/lib/docker/cache")
    assert not daemon.on_overlayfs("/var/lib/dockerx")
    assert not daemon.on_overlayfs("/var/lib")


ARGS = ["--run-dir", "R", "--mount", "M", "--index", "2", "--device-fd", "3", "--state-fd", "4", "--supervisor-fd", "5"]


def test_the_daemons_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (arguments.NO_PASSTHROUGH, arguments.NO_RESEND):
        monkeypatch.delenv(name, raising=False)
    args = arguments.Args(ARGS)
    assert (args.run_dir, args.mount, args.index, args.device_fd, args.state_fd, args.supervisor_fd) == ("R", "M", 2, 3, 4, 5)
    assert args.passthrough
    assert args.resend
    assert not arguments.Args([*ARGS, "--no-passthrough"]).passthrough
    monkeypatch.setenv(arguments.NO_PASSTHROUGH, "1")
    monkeypatch.setenv(arguments.NO_RESEND, "1")
    assert not arguments.Args(ARGS).passthrough
    assert not arguments.Args(ARGS).resend


@pytest.mark.parametrize("argv", [ARGS[2:], [*ARGS, "--more"], [*ARGS[:-1]], ["--index", "x", *ARGS], []])
def test_a_wrong_command_line_is_one_sentence_and_exit_2(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert daemon.main(argv) == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


def test_a_run_directory_without_a_spec_is_exit_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    argv = ["--run-dir", str(tmp_path), "--mount", "M", "--device-fd", str(read), "--state-fd", str(write)]
    assert daemon.main(argv) == 2
    assert "spec.json" in capfd.readouterr().err
    os.close(read)
    os.close(write)


def test_log_lines_are_json_whatever_is_in_them(capfd: pytest.CaptureFixture[str]) -> None:
    import json

    daemon.log("defect", name=b"\xff\n", path=Path("/x"), error=ValueError("boom"))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert (line["message"], line["role"], line["path"]) == ("defect", "mount", "/x")
    assert "boom" in "".join(line["trace"])
