"""`forebay doctor`: everything that keeps forebay from working, or from being fast, each with its remedy."""

from __future__ import annotations

import email.utils
import os
import platform
import resource
import select
import shutil
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import click

from forebay.api import places
from forebay.api.spec import DatasetSpec
from forebay.cache.fetch.awake import SWITCH, Awake
from forebay.cli.load import cache_option, default_cache, read
from forebay.cli.machine import preflight
from forebay.cli.machine.datasets import running
from forebay.cli.output import emit_json, say, size
from forebay.fuse import mounting, protocol

Level = Literal["ok", "info", "warning", "error"]

NOFILE = 65536
"""Open files one wants: every cached file that is open costs the daemon one descriptor."""
TMPFS_LEAST = 1 << 30
PROBE_LIMIT = 5.0
"""Seconds for the kernel's first request to a mount made to look at it."""
SKEW = 300.0
"""Seconds of clock skew from which S3 refuses signatures is 900; a third of that is worth a word."""


class Finding(NamedTuple):
    """One thing looked at. `remedy` is empty where nothing is to be done."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


@click.command(
    epilog="""\b
Examples:
  forebay doctor
  forebay doctor -f dataset.yaml         also credentials and reach of every mount, cache disks
  forebay doctor -o json

\b
Exit code 1 when something prevents work; warnings and hints alone are 0."""
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, allow_dash=True),
    metavar="FILE",
    help="YAML files whose stores and cache directories are looked at as well.",
)
@cache_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def doctor(*, files: tuple[Path, ...], cache_dir: Path | None, output: str) -> None:
    """Look for what would keep forebay from working, or from being fast."""
    findings = [*kernel(), *helpers(), *limits(), *memory()]
    specs = [r.spec for r in running()]
    if files:
        _, given, problems = read(files, cache_dir)
        findings += [Finding(p.severity, "manifest", str(p)) for p in problems]
        findings += stores(given)
        specs += given
    else:
        findings += default_place(cache_dir or default_cache())
    findings += caches(specs)
    findings += live()
    if output == "json":
        emit_json({"findings": [f._asdict() for f in findings], "ok": not any(f.level == "error" for f in findings)})
    else:
        show(findings)
    if any(f.level == "error" for f in findings):
        raise SystemExit(1)


def show(findings: list[Finding]) -> None:
    marks: dict[Level, tuple[str, str]] = {
        "ok": ("ok", "green"),
        "info": ("info", "cyan"),
        "warning": ("warn", "yellow"),
        "error": ("FAIL", "red"),
    }
    for finding in findings:
        mark, colour = marks[finding.level]
        click.echo(f"{click.style(f'{mark:<5}', fg=colour)} {finding.subject}: {finding.text}")
        if finding.remedy:
            click.echo(f"      -> {finding.remedy}")
    errors = sum(f.level == "error" for f in findings)
    warnings = sum(f.level == "warning" for f in findings)
    say(f"{errors} that prevent work, {warnings} to look at" if errors or warnings else "everything is in order")


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 9) of "6.9.0-1-cloud-amd64"; (0, 0) of what is no such text."""
    digits = release.split("-", maxsplit=1)[0].split(".")
    try:
        return int(digits[0]), int(digits[1])
    except (IndexError, ValueError):
        return 0, 0


def kernel() -> Iterator[Finding]:
    """Kernel, /dev/fuse, and what follows from its version for speed and for a crash."""
    release = platform.release()
    version = kernel_version(release)
    root = os.geteuid() == 0
    yield Finding("ok", "kernel", f"Linux {release} on {platform.machine()}, Python {platform.python_version()}")
    try:
        os.close(mounting.open_device())
        yield Finding("ok", "/dev/fuse", "can be opened")
    except OSError as e:
        in_container = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
        remedy = "run the container with --device /dev/fuse --cap-add SYS_ADMIN" if in_container else "modprobe fuse"
        if os.path.exists("/dev/fuse"):
            remedy = "chmod 666 /dev/fuse, as root: distributions ship it so"
        yield Finding("error", "/dev/fuse", e.strerror or str(e), remedy)
    offered = _offered()
    if offered is None:
        passthrough, resend, where = version >= (6, 9) and root, version >= (6, 9), "judged by the kernel's version"
    else:
        passthrough, resend, where = offered[0] and root, offered[1], "offered by the kernel"
    reason = "the kernel asks for CAP_SYS_ADMIN" if not root else "Linux 6.9 with CONFIG_FUSE_PASSTHROUGH has it"
    if passthrough:
        yield Finding("ok", "passthrough", f"complete files are read at the disk's own speed, past every daemon ({where})")
    else:
        yield Finding(
            "warning",
            "passthrough",
            f"not here: {reason}; reads go through the daemon and the page cache",
            "run as root on Linux 6.9 or newer for the disk's own speed; everything else works the same",
        )
    if resend:
        yield Finding("ok", "crash of the daemon", f"requests in flight are sent again: readers see a pause (RESEND, {where})")
    else:
        yield Finding(
            "ok",
            "crash of the daemon",
            "this kernel has no RESEND: what a dead mount daemon had in hand its successor serves from the record that the "
            "supervisor holds; readers see a pause",
        )
    yield _awake()


def _awake() -> Finding:
    alert = Awake()
    alert.close()
    if alert.why:
        return Finding(
            "ok",
            "idle cores",
            f"may halt while small files are read ({alert.why}): in a virtual machine that can be a quarter of the rate",
        )
    return Finding("ok", "idle cores", f"are kept awake while small files follow each other ({SWITCH}=1 lets them sleep)")


def _offered() -> tuple[bool, bool] | None:
    """(passthrough, resend) as the kernel offers them to a mount made for the purpose; None when none can be made."""
    place = tempfile.mkdtemp(prefix="forebay-doctor-")
    try:
        fd = mounting.mount(place, "forebay:doctor")
    except OSError:
        os.rmdir(place)
        return None  # what forbids it is another finding
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(PROBE_LIMIT * 1000):
            return None
        _, agreed = protocol.answer_init(os.read(fd, protocol.REQUEST_BUFFER))
        return None if agreed is None else (agreed.passthrough, agreed.resend)
    except (OSError, protocol.Unusable):
        return None
    finally:
        os.close(fd)  # the last descriptor: the connection ends, nobody can hang in it
        mounting.umount(place, lazy=True)
        os.rmdir(place)


def helpers() -> Iterator[Finding]:
    """What an ordinary user needs to mount."""
    found = shutil.which("fusermount3") or shutil.which("fusermount")
    if os.geteuid() == 0:
        yield _may_mount()
        return
    if found is None:
        yield Finding("error", "fusermount3", "is not installed, and only root mounts without it", "apt install fuse3")
        return
    setuid = os.stat(found).st_mode & 0o4000
    if setuid:
        yield Finding("ok", "fusermount3", found)
    else:
        yield Finding("error", "fusermount3", f"{found} is not setuid root", f"chown root {found} && chmod u+s {found}, as root")
    conf = Path("/etc/fuse.conf")
    allowed = conf.exists() and any(line.strip() == "user_allow_other" for line in conf.read_text().splitlines())
    if not allowed:
        yield Finding(
            "info", "/etc/fuse.conf", "your mounts show to you alone", "add the line user_allow_other to show them to others"
        )


def _may_mount() -> Finding:
    """CAP_SYS_ADMIN (bit 21) of this process: root in a container often has none."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:") and not int(line.split()[1], 16) >> 21 & 1:
            return Finding(
                "error", "privilege", "root without CAP_SYS_ADMIN may not mount", "run the container with --cap-add SYS_ADMIN"
            )
    return Finding("ok", "privilege", "root with CAP_SYS_ADMIN")


def limits() -> Iterator[Finding]:
    """Open files and locked memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < NOFILE:
        yield Finding(
            "warning",
            "open files",
            f"at most {hard}: so many files can be open through the mount at once",
            f"ulimit -Hn {NOFILE}, or LimitNOFILE={NOFILE} in the unit",
        )
    else:
        yield Finding("ok", "open files", f"at most {'any number' if hard == resource.RLIM_INFINITY else hard}")
    _, locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if locked != resource.RLIM_INFINITY and locked < 8 << 20:
        yield Finding("info", "locked memory", f"at most {size(locked)}; nothing here locks memory today")
    run = places.run_root()
    if preflight.file_system(str(run)) in preflight.NETWORK_FS:
        yield Finding(
            "error", "run directory", f"{run} lies on a network file system", "set FOREBAY_RUN_DIR to a local directory"
        )


def memory() -> Iterator[Finding]:
    """The tmpfs of MEM tiers."""
    shm = "/dev/shm"
    if preflight.file_system(shm) != "tmpfs":
        yield Finding(
            "warning", "tmpfs", f"{shm} is no tmpfs: a MEM tier there would lie on a disk", f"mount -t tmpfs tmpfs {shm}"
        )
        return
    st = os.statvfs(shm)
    free, whole = st.f_bavail * st.f_frsize, st.f_blocks * st.f_frsize
    if whole < TMPFS_LEAST:
        yield Finding(
            "info",
            "tmpfs",
            f"{shm} holds {size(whole)}: too small for a MEM tier worth having",
            f"mount -o remount,size=8G {shm}; in a container --shm-size=8g",
        )
    else:
        yield Finding("ok", "tmpfs", f"{shm}: {size(free)} of {size(whole)} free")


def default_place(path: Path) -> Iterator[Finding]:
    """The directory a dataset without a runtime is cached in."""
    near = preflight.nearest(str(path))
    if not os.access(near, os.W_OK | os.X_OK):
        yield Finding(
            "error", "cache", f"{path} cannot be made: {near} is not writable for you", "give --cache-dir to `forebay up`"
        )
        return
    st = os.statvfs(near)
    yield Finding("ok", "cache", f"{path} on {preflight.file_system(near)}, {size(st.f_bavail * st.f_frsize)} free")


def caches(specs: list[DatasetSpec]) -> Iterator[Finding]:
    """Cache directories of datasets: file system, room, rights."""
    seen: set[str] = set()
    for spec in specs:
        if (why := preflight.index_place(spec)) is not None:
            yield Finding("error", f"cache of {spec.id}", why)
        for floor in preflight.floors(spec):
            tier = floor.tier
            if tier.path in seen:
                continue
            seen.add(tier.path)
            kind = preflight.file_system(tier.path)
            near = preflight.nearest(tier.path)
            if not os.access(near, os.W_OK | os.X_OK):
                yield Finding("error", f"cache of {spec.id}", f"{near} is not writable for you", "choose another --cache-dir")
            if kind == "overlay":
                yield Finding(
                    "info",
                    f"cache of {spec.id}",
                    f"{tier.path} lies on overlayfs (a container's root): works, one layer slower",
                    "put --cache-dir on a volume",
                )
            elif kind in preflight.NETWORK_FS:
                yield Finding(
                    "warning",
                    f"cache of {spec.id}",
                    f"{tier.path} lies on {kind}: no faster than that network",
                    "use a local disk",
                )
            elif tier.medium == "MEM" and kind not in ("tmpfs", "ramfs"):
                yield Finding(
                    "warning", f"cache of {spec.id}", f"the MEM tier {tier.path} lies on {kind}, not on a tmpfs", "use /dev/shm"
                )
            if floor.stopped:
                yield Finding("warning", f"cache of {spec.id}", floor.sentence())
            else:
                yield Finding(
                    "ok",
                    f"cache of {spec.id}",
                    f"{tier.medium} {tier.path} on {kind}: {size(floor.free)} free, caching stops at {size(floor.floor)}",
                )


def stores(specs: list[DatasetSpec]) -> Iterator[Finding]:
    """Reach and credentials of every mount, clocks of those that tell theirs."""
    for spec in specs:
        for reach in preflight.reach(spec.mounts):
            mount = reach.mount
            subject = f"{spec.id} {mount.path}"
            if reach.problem is not None:
                yield Finding("error", subject, str(reach.problem))
            else:
                signed = " with credentials" if mount.secrets else ""
                yield Finding("ok", subject, f"{mount.source} answers{signed}")
            url = mount.options.get("endpoint") or (mount.source if mount.store == "http" else "")
            if reach.problem is None and url.startswith("http") and (skew := clock_skew(url)) is not None and abs(skew) > SKEW:
                yield Finding(
                    "warning",
                    subject,
                    f"its clock and this machine's differ by {skew:.0f} s: above 900 s signatures are refused",
                    "set the clock (timedatectl set-ntp true)",
                )


def clock_skew(url: str) -> float | None:
    """This machine's clock minus the server's, in seconds, from a Date header; None when it tells none."""
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.netloc, timeout=5, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=5)
    try:
        connection.request("HEAD", parts.path or "/")
        date = connection.getresponse().getheader("Date")
        return time.time() - email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except (OSError, ValueError, http.client.HTTPException):
        return None  # reach is another finding's business
    finally:
        connection.close()


def live() -> Iterator[Finding]:
    """Datasets that are up and in trouble, mounts without a life."""
    known = set()
    for target in running():
        state = target.state()
        known |= {m["path"] for m in state["mounts"]}
        if state["phase"] == "dead":
            yield Finding(
                "error",
                f"dataset {target.label}",
                "its processes were killed",
                f"`forebay up -f FILE` or `forebay down {target.spec.name}`",
            )
        elif state.get("error"):
            yield Finding("error", f"dataset {target.label}", str(state["error"]))
    for entry in mounting.entries():
        if entry.source.startswith("forebay:") and entry.path not in known:
            yield Finding(
                "warning",
                f"mount {entry.path}",
                "belongs to no dataset of this run directory",
                f"`umount -l {entry.path}`, or set FOREBAY_RUN_DIR as for its `forebay up`",
            )
