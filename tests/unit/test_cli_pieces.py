"""The command line without a kernel mount: names, sentences, checks before a start."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from forebay.api import places
from forebay.api.spec import DatasetSpec, Mount, Tier
from forebay.cli import output
from forebay.cli.machine import checks, datasets, doctor, planning, preflight, systemd
from forebay.cli.main import COMMANDS, cli
from forebay.cli.progress import sentence
from forebay.fuse.mounting import MountEntry
from forebay.fuse.supervision import rundir


def spec(tmp: Path, name: str = "data", namespace: str = "default", **more: Any) -> DatasetSpec:
    mounts = [Mount(source=f"local://{tmp}/origin", store="file", path="/", name="m")]
    tiers = [Tier(medium="SSD", path=f"{tmp}/cache/tier")]
    return DatasetSpec(namespace, name, mounts, tiers, f"{tmp}/cache/index", **more)


# --- places -------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=80))
def test_escape_is_one_safe_component(name: str) -> None:
    safe = places.escape(name)
    assert len(safe.encode()) <= 30
    assert safe not in ("", ".", "..")
    assert "/" not in safe
    assert "\0" not in safe
    assert safe.isascii()


@given(st.text(max_size=80), st.text(max_size=80))
def test_escape_keeps_names_apart(a: str, b: str) -> None:
    assert (places.escape(a) == places.escape(b)) == (a == b)


def test_escape_keeps_dns_labels() -> None:
    assert places.escape("imagenet-1k") == "imagenet-1k"
    assert places.escape("x" * 30) == "x" * 30
    assert places.escape("x" * 63) != places.escape("x" * 62 + "y")


@pytest.mark.parametrize(
    ("environ", "uid", "root"),
    [
        ({}, 0, "/run/forebay"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 0, "/run/forebay"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/run/user/7/forebay"),
        ({}, 7, "/tmp/forebay-7"),
        ({"FOREBAY_RUN_DIR": "/x/y"}, 0, "/x/y"),
        ({"FOREBAY_RUN_DIR": ""}, 7, "/tmp/forebay-7"),
    ],
)
def test_run_root(environ: dict[str, str], uid: int, root: str) -> None:
    assert str(places.run_root(environ, uid)) == root


def test_longest_names_fit_a_socket() -> None:
    run = places.run_dir("n" * 63, "d" * 63, root=Path("/run/user/4294967294/forebay"))
    assert len(str(run / places.SUPERVISOR_SOCK)) <= places.SUN_PATH


def test_make_private_refuses_what_others_may_write(tmp_path: Path) -> None:
    made = places.make_private(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(PermissionError, match="nobody else may write"):
        places.make_private(tmp_path / "open")
    (tmp_path / "link").symlink_to(made)
    with pytest.raises(PermissionError):
        places.make_private(tmp_path / "link")


# --- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("data", ("data", b"/")),
        ("data:", ("data", b"/")),
        ("data:/", ("data", b"/")),
        ("ns/data:/a/b", ("ns/data", b"/a/b")),
        ("data:a//b/", ("data", b"/a/b")),
        ("data:/./a/.", ("data", b"/a")),
        ("data:/a:b", ("data", b"/a:b")),
        ("data:/\udcff", ("data", b"/\xff")),
    ],
)
def test_split(target: str, expected: tuple[str, bytes]) -> None:
    assert datasets.split(target) == expected


@pytest.mark.parametrize("target", [":/x", "data:/a/../b", "data:.."])
def test_split_refuses(target: str) -> None:
    with pytest.raises(click.UsageError):
        datasets.split(target)


def test_names_cannot_steer_the_terminal() -> None:
    assert output.text_of(b"a\x1b[31mb\n\xff") == "a\\x1b[31mb\\n\\xff"
    assert output.json_name(b"\xff") == {"name": "\\xff", "name_base64": "/w=="}
    assert output.json_name(b"ok") == {"name": "ok"}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 Ki"), (1536, "1.5 Ki"), (5 << 50, "5120.0 Ti")],
)
def test_size(count: int, text: str) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (0.4, "0s"), (59.6, "1m00s"), (3600, "1h00m"), (90000, "1d01h")])
def test_duration(seconds: float | None, text: str) -> None:
    assert output.duration(seconds) == text


def test_progress_sentence_marks_totals_that_still_grow() -> None:
    from forebay.api import wire

    p = wire.Progress(files=1, files_total=4, bytes=1 << 20, bytes_total=4 << 20, rate=1 << 20, eta=3.0, walked=False)
    assert sentence(p) == "1 of 4+ files, 1.0 Mi of 4.0 Mi+, 1.0 Mi/s, 3s left"


# --- the command ----------------------------------------------------------------------------------------------------------


def spent() -> float:
    """Seconds of processor time of the programs that have ended here: what a busy machine does not change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom forebay.cli.main import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = [m for m in ('trio', 'lmdb', 'rich', 'yaml', 'moto', 'msgspec') if m in sys.modules]\n"
        "assert not heavy, heavy"
    )
    best = 9.0
    for _ in range(3):
        begun = spent()
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False)
        best = min(best, spent() - begun)
        assert done.returncode == 0, done.stderr
    assert best < 2.0, "0.12 s on an idle machine"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_with_examples(name: str) -> None:
    done = CliRunner().invoke(cli, [name, "--help"])
    assert done.exit_code == 0
    assert "Examples:" in done.output
    assert f"forebay {name}" in done.output
    # the one-line text of the group's help is the command's own
    first = COMMANDS[name][1].split()[0].lower()
    assert first in done.output.lower()


def test_a_misspelt_command_is_guessed() -> None:
    done = CliRunner().invoke(cli, ["stauts"])
    assert done.exit_code == 2
    assert 'did you mean "status"?' in done.output


def test_version() -> None:
    import forebay

    assert forebay.__version__ in CliRunner().invoke(cli, ["--version"]).output


CHECKED = Path(__file__).parents[1] / "data" / "fluid-manifests"


def test_check_passes_fluids_own_manifests() -> None:
    done = CliRunner().invoke(cli, ["check", "-f", str(CHECKED)])
    assert done.exit_code == 0, done.output
    assert "0 errors" in done.output


def test_check_fails_with_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    file.write_text(
        "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: x}\nspec:\n  mounts:\n  - mountPiont: s3://b\n"
    )
    done = CliRunner().invoke(cli, ["check", "-f", str(file)])
    assert done.exit_code == 1
    assert f"{file}:6: error: " in done.output
    assert "mountPiont" in done.output
    done = CliRunner().invoke(cli, ["check", "-f", str(file), "-o", "json"])
    assert done.exit_code == 1
    assert '"severity": "error"' in done.output


# --- before a start -----------------------------------------------------------------------------------------------------


def entry(path: str, fstype: str = "ext4", source: str = "/dev/sda") -> MountEntry:
    return MountEntry(0, 1, path, fstype, source, "rw")


def test_mount_point_table(tmp_path: Path) -> None:
    free = tmp_path / "free"
    free.mkdir()
    assert preflight.mount_point(str(free), []) is None
    assert preflight.mount_point(str(tmp_path / "new" / "deep"), []) is None
    (tmp_path / "file").touch()
    assert "is no directory" in str(preflight.mount_point(str(tmp_path / "file"), []))
    assert "is no directory" in str(preflight.mount_point(str(tmp_path / "file" / "below"), []))
    (free / "x").touch()
    assert "is not empty ('x')" in str(preflight.mount_point(str(free), []))
    said = preflight.mount_point(str(free), [entry(str(free), "fuse.forebay", "forebay:ns/other")])
    assert said is not None
    assert "forebay down ns/other" in said
    assert "nfs4 of filer:/x" in str(preflight.mount_point(str(free), [entry(str(free), "nfs4", "filer:/x")]))


def test_cycles(tmp_path: Path) -> None:
    (tmp_path / "origin").mkdir()
    s = spec(tmp_path)
    assert preflight.cycles(s, str(tmp_path / "mnt")) is None
    assert "inside the mount" in str(preflight.cycles(s, str(tmp_path / "cache")))
    assert "inside the SSD tier" in str(preflight.cycles(s, str(tmp_path / "cache" / "tier" / "mnt")))
    assert "inside each other" in str(preflight.cycles(s, str(tmp_path / "origin" / "mnt")))
    inside = DatasetSpec("n", "d", s.mounts, [Tier("SSD", f"{tmp_path}/origin/cache")], f"{tmp_path}/index")
    assert "cache itself" in str(preflight.cycles(inside, str(tmp_path / "mnt")))


def test_file_system_is_that_of_the_longest_mount(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    table = [entry("/", "ext4"), entry(str(tmp_path / "a"), "xfs"), entry(str(tmp_path / "ab"), "nfs")]
    assert preflight.file_system(str(tmp_path / "a" / "b" / "not" / "yet"), table) == "xfs"
    assert preflight.file_system(str(tmp_path), table) == "ext4"


def test_index_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.mounting, "entries", lambda: iter([entry("/", "nfs4", "filer:/")]))
    assert "nfs4" in str(preflight.index_place(spec(tmp_path)))


def test_floor(tmp_path: Path) -> None:
    free, whole = shutil.disk_usage(tmp_path).free, shutil.disk_usage(tmp_path).total
    (found,) = preflight.floors(spec(tmp_path, floor_bytes=0))
    assert not found.stopped
    assert found.floor == 0
    (found,) = preflight.floors(spec(tmp_path, floor_ratio=1.0, floor_bytes=0))  # a floor of bytes says nothing of inodes
    assert not found.stopped
    (found,) = preflight.floors(spec(tmp_path, floor_ratio=1.0, floor_bytes=1 << 60))
    assert found.stopped
    assert found.floor == pytest.approx(whole, rel=0.01)
    assert "nothing more is cached" in found.sentence()
    assert found.free == pytest.approx(free, rel=0.1)


def test_reach_names_the_directory_that_is_missing(tmp_path: Path) -> None:
    (answer,) = preflight.reach(spec(tmp_path).mounts)
    assert answer.problem is not None
    assert f"{tmp_path}/origin" in str(answer.problem)
    (tmp_path / "origin").mkdir()
    (answer,) = preflight.reach(spec(tmp_path).mounts)
    assert answer.problem is None


def test_reach_has_a_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended = threading.Event()

    class Slow:
        def probe(self) -> None:
            ended.wait(60)

        def close(self) -> None: ...

    monkeypatch.setattr(preflight, "open_store", lambda mount: Slow())
    begun = time.monotonic()
    (answer,) = preflight.reach(spec(tmp_path).mounts, limit=0.2)
    assert time.monotonic() - begun < 30
    ended.set()
    assert "no answer within" in str(answer.problem)


def test_mount_points(tmp_path: Path) -> None:
    a, b = spec(tmp_path, "a"), spec(tmp_path, "b")
    assert planning.mount_points([a], Path("/m/x/")) == {"default/a": "/m/x"}
    assert planning.mount_points([a, b], Path("/m")) == {"default/a": "/m/a", "default/b": "/m/b"}
    root = "/mnt/forebay" if os.geteuid() == 0 else str(Path.home() / "forebay")
    assert planning.mount_points([a], None) == {"default/a": f"{root}/default/a"}
    with pytest.raises(output.CommandError, match="several datasets are called a"):
        planning.mount_points([a, spec(tmp_path, "a", "other")], Path("/m"))


# --- run directory, systemd, doctor --------------------------------------------------------------------------------------


def test_make_mount_point_returns_what_it_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert rundir.make_mount_point(str(path)) == [str(tmp_path / "a"), str(path)]
    assert rundir.make_mount_point(str(path)) == []
    (path / "x").touch()
    with pytest.raises(OSError, match="not empty"):
        rundir.make_mount_point(str(path))


def test_unit_quotes_and_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in systemd.AMBIENT:
        monkeypatch.delenv(name, raising=False)
    text = systemd.unit((Path("my data.yaml"), Path("50%$x.yaml")), [spec(tmp_path)], [Path("m")], None, ["--no-passthrough"])
    line = next(row for row in text.splitlines() if row.startswith("ExecStart="))
    assert f"-f '{tmp_path}/my data.yaml'" in line
    assert f"-f '{tmp_path}/50%%$$x.yaml'" in line
    assert f"--mount {tmp_path}/m" in line
    assert line.endswith("--no-passthrough")
    assert "WantedBy=multi-user.target" in text or "WantedBy=default.target" in text
    assert "credentials" not in text
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert "EnvironmentFile" in systemd.unit((Path("d.yaml"),), [spec(tmp_path)], [], None)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "forebay-data.service"
    file.write_text(systemd.unit((tmp_path / "my data.yaml",), [spec(tmp_path)], [], tmp_path / "c"))
    done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert "forebay-data.service" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.18.44-fc", (6, 18)), ("5.10.0-1-amd64", (5, 10)), ("weird", (0, 0)), ("7", (0, 0))],
)
def test_kernel_version(release: str, version: tuple[int, int]) -> None:
    assert doctor.kernel_version(release) == version


def test_every_doctor_finding_that_is_not_fine_has_a_remedy() -> None:
    for finding in [*doctor.kernel(), *doctor.helpers(), *doctor.limits(), *doctor.memory()]:
        assert finding.level in ("ok", "info") or finding.remedy, finding


def test_doctor_fails_for_a_store_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    file.write_text(
        "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: x}\nspec:\n  mounts:\n"
        f"  - mountPoint: local://{tmp_path}/nothing\n    path: /\n"
    )
    done = CliRunner().invoke(cli, ["doctor", "-f", str(file), "--cache-dir", str(tmp_path / "c"), "-o", "json"])
    assert done.exit_code == 1
    assert f"{tmp_path}/nothing" in done.output


def test_commands_take_turns_and_leave_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_RUN_DIR", str(tmp_path / "run"))
    inside = []
    errors = []

    def command(i: int) -> None:
        try:
            with datasets.locked("ns", "data"):
                inside.append(i)
                time.sleep(0.02)
                assert inside == [i], "two at once"
                inside.clear()
        except BaseException as e:  # noqa: BLE001 - shown by the main thread
            errors.append(e)

    threads = [threading.Thread(target=command, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert list((tmp_path / "run").iterdir()) == []


def test_the_page_of_commands_is_what_help_says() -> None:
    from forebay.cli import reference

    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text() == reference.text(), "run: python -P -m forebay.cli.reference > docs/cli.md"


@pytest.mark.parametrize(("name", "called"), [("", "/doc"), ("docs", "docs")])
def test_what_keeps_a_dataset_down_names_the_mount_also_where_it_has_no_name(tmp_path: Path, name: str, called: str) -> None:
    class Start(NamedTuple):
        spec: DatasetSpec

    mounts = [Mount(f"local://{tmp_path}/none", "file", "/doc", name)]
    start: Any = Start(DatasetSpec("default", "lake", mounts, [], str(tmp_path)))
    with pytest.raises(output.CommandError, match=f"^mount {called} of dataset default/lake: .*none"):
        checks.check_stores([start], offline_ok=False)
