"""Writes container images without a container engine: docker-archive files that containerd, docker and podman load.

    PYTHONPATH=deploy python -m harness.image forebay.tar          # forebay:dev of this working tree

An image is layers of files, described here in Python and written as tar. `forebay:dev` has two: the interpreter in use with
the wheels that the project needs and the libraries that they are linked with (kept in the cache, by what it is made of);
and the project itself, compiled (made anew each time). It runs as user 65532, under a read-only root if need be; there is no
shell in it. The same input gives the same bytes, but for the times of files that others made.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from harness.build import cache

ROOT = Path(__file__).resolve().parents[2]
NAME = "forebay:dev"
USER = 65532
HOME = "/opt/forebay"
"""A virtual environment in the image, so that the interpreter finds the wheels whatever a pod's environment says."""
SITE = f"{HOME}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
LEFT_OUT = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages", "pydoc_data")
MODULES_LEFT_OUT = ("_tkinter", "nis", "_test", "_xxtest", "xxlimited", "_ctypes_test", "_curses", "readline")
"""Of the standard library, what a service never imports; the modules' libraries (X11, Kerberos) stay out with them."""
EXTRAS = ("scheduler", "claims")
"""Of the project's extras: what its own processes in a cluster need (NumPy, CEL)."""
FORMAT = "3"
"""Of the cached layer; changes where this file makes another one from the same packages."""


class ImageError(Exception):
    """No image was written; the sentence says what to do."""


class Entry(NamedTuple):
    """One thing in a layer. `content`: bytes, a file to copy, or None for a directory; `link`: a symbolic link's target."""

    path: str
    content: bytes | Path | None = None
    mode: int = 0o644
    link: str = ""
    owner: int = 0


class Layer(NamedTuple):
    """A tar file and the sha256 of its bytes."""

    path: Path
    digest: str


def write_layer(path: Path, entries: Iterable[Entry]) -> Layer:
    """A layer of `entries`, sorted; the directories above each come by themselves."""
    wanted = {entry.path.strip("/"): entry for entry in entries}
    for each in list(wanted):
        for parent in Path(each).parents:
            if str(parent) != "." and str(parent) not in wanted:
                wanted[str(parent)] = Entry(str(parent), mode=0o755)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(wanted):
            _add(tar, name, wanted[name])
    with path.open("rb") as written:
        return Layer(path, hashlib.file_digest(written, "sha256").hexdigest())


def _add(tar: tarfile.TarFile, name: str, entry: Entry) -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = entry.mode, entry.owner, entry.owner
    if entry.link:
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
        tar.addfile(info)
    elif entry.content is None:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif isinstance(entry.content, bytes):
        info.size = len(entry.content)
        tar.addfile(info, io.BytesIO(entry.content))
    else:
        found = entry.content.stat()
        info.size, info.mtime = found.st_size, int(found.st_mtime)  # a .pyc that exists names its source's time
        with entry.content.open("rb") as source:
            tar.addfile(info, source)


def write_image(path: Path, name: str, layers: list[Layer], config: dict[str, Any]) -> None:
    """`path` becomes the docker-archive of image `name`, whole or not at all. `config`: Env, User, Entrypoint, ..."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    described = json.dumps(
        {
            "architecture": machine,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
            "history": [{"created_by": "deploy/harness/image.py"} for _ in layers],
        }
    ).encode()
    described_at = f"{hashlib.sha256(described).hexdigest()}.json"
    parts = [f"{layer.digest}.tar" for layer in layers]
    manifest = json.dumps([{"Config": described_at, "RepoTags": [name], "Layers": parts}]).encode()
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with tarfile.open(made, "w", format=tarfile.GNU_FORMAT) as tar:
            _add(tar, described_at, Entry(described_at, described))
            for part, layer in zip(parts, layers, strict=True):
                _add(tar, part, Entry(part, layer.path))
            _add(tar, "manifest.json", Entry("manifest.json", manifest))
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


# --- forebay --------------------------------------------------------------------------------------------------------


def forebay(path: Path, root: Path = ROOT) -> None:
    """`forebay:dev` of the working tree `root`, written to `path`."""
    _check_environment(root)
    base = _base_layer()
    with tempfile.TemporaryDirectory() as scratch:
        top = write_layer(Path(scratch) / "project.tar", _project(root, Path(scratch) / "compiled"))
        environment = [f"PATH={HOME}/bin:/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1", "LANG=C.UTF-8"]
        config = {"User": f"{USER}:{USER}", "Env": environment, "Entrypoint": ["forebay"], "WorkingDir": "/"}
        write_image(path, NAME, [base, top], config)


def _check_environment(root: Path) -> None:
    """Raises ImageError where the environment is older than what the working tree asks for: the image would lack it."""
    from packaging.requirements import Requirement

    asked = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    there = {Requirement(each).name for each in importlib.metadata.distribution("forebay").requires or () if _needed(each, "")}
    if missing := sorted({Requirement(each).name for each in asked} - there):
        raise ImageError(f"pyproject.toml asks for {', '.join(missing)}, which {sys.prefix} was made without; run `make setup`")


def _base_layer() -> Layer:
    """The interpreter and the wheels. 12 s to make, so it is kept by the versions of what is in it."""
    packages = _closure("forebay")
    names = sorted(f"{each.name}=={each.version}" for each in packages)
    made_of = "\n".join([FORMAT, sys.version, sys.base_prefix, platform.machine(), *names])
    key = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    folder = cache() / "images" / key
    if not (folder / "digest").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = write_layer(Path(scratch) / "base.tar", [*_interpreter(), *_wheels(packages, Path(scratch) / "c"), *_system()])
            folder.mkdir(exist_ok=True)
            made.path.replace(folder / "base.tar")
            (folder / "digest").write_text(made.digest)  # last: it says that the layer is whole
    return Layer(folder / "base.tar", (folder / "digest").read_text())


def _closure(name: str) -> list[importlib.metadata.Distribution]:
    """The distributions that `name` needs with EXTRAS, itself excluded, as they are installed here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = [name]
    while todo:
        try:
            each = importlib.metadata.distribution(todo.pop())
        except importlib.metadata.PackageNotFoundError as missing:
            raise ImageError(f"{missing}: not installed in {sys.prefix}; run `make setup`") from None
        if each.name in found:
            continue
        found[each.name] = each
        extras = EXTRAS if each.name == name else ("",)
        todo += [wanted for requirement in each.requires or () for extra in extras if (wanted := _needed(requirement, extra))]
    del found[importlib.metadata.distribution(name).name]
    return [found[key] for key in sorted(found)]


def _needed(requirement: str, extra: str) -> str:
    """The name of what a requirement asks for here, "" where its marker excludes it: other extras, systems and versions."""
    from packaging.requirements import Requirement

    asked = Requirement(requirement)
    return asked.name if asked.marker is None or asked.marker.evaluate({"extra": extra}) else ""


def _wheels(packages: list[importlib.metadata.Distribution], scratch: Path) -> Iterator[Entry]:
    """The packages' files as installed, without tests, stubs and caches; compiled, as the root of a pod may be read-only."""
    for each in packages:
        for file in each.files or ():
            parts = file.parts
            if parts[0] == ".." or "__pycache__" in parts or file.suffix == ".pyi" or {"tests", "test"} & set(parts):
                continue
            source = Path(str(each.locate_file(file)))
            to = scratch / file
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, to)
    yield from _compiled(scratch, SITE)
    yield from _libraries(scratch)


def _compiled(folder: Path, to: str) -> Iterator[Entry]:
    """`folder` compiled, as it shall lie at `to`. Caches that name no time stay good whatever an image does to times."""
    compileall.compile_dir(
        folder, quiet=2, stripdir=str(folder), prependdir=to, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield Entry(f"{to}/{file.relative_to(folder)}", file)


def _project(root: Path, scratch: Path) -> Iterator[Entry]:
    """The rooms as they lie in the working tree, and the command."""
    shutil.copytree(root / "src/forebay", scratch / "forebay", ignore=shutil.ignore_patterns("__pycache__"))
    yield from _compiled(scratch, SITE)
    start = f"#!{HOME}/bin/python3 -P\nimport sys\nfrom forebay.cli.main import main\nsys.exit(main())\n"
    yield Entry(f"{HOME}/bin/forebay", start.encode(), 0o755)


def _interpreter() -> Iterator[Entry]:
    """The interpreter under /usr/local, its library, and the environment that names it."""
    program = Path(sys.executable).resolve()
    yield Entry(f"/usr/local/bin/{PYTHON}", program, 0o755)
    library = Path(sysconfig.get_path("stdlib"))
    for folder, below, files in os.walk(library):
        at = Path(folder).relative_to(library)
        below[:] = [d for d in below if d not in LEFT_OUT and not d.startswith("config-")]
        for name in files:
            if not (Path(folder) / name).is_file() or not _served(at, name):
                continue
            yield Entry(f"/usr/local/lib/{PYTHON}/{at}/{name}".replace("/./", "/"), Path(folder) / name)
    yield Entry(f"{HOME}/pyvenv.cfg", f"home = /usr/local/bin\nversion = {platform.python_version()}\n".encode())
    for name in ("python3", "python", PYTHON):
        yield Entry(f"{HOME}/bin/{name}", link=f"/usr/local/bin/{PYTHON}")
    yield from _libraries(
        program, *(f for f in (library / "lib-dynload").glob("*.so") if not f.name.startswith(MODULES_LEFT_OUT))
    )


def _served(folder: Path, name: str) -> bool:
    """Whether a service may want the file `name` of the standard library's `folder`."""
    if folder.name == "lib-dynload" and name.startswith(MODULES_LEFT_OUT):
        return False
    return not name.endswith((".opt-1.pyc", ".opt-2.pyc", ".a"))


def _libraries(*places: Path) -> Iterator[Entry]:
    """The shared libraries that the programs and extension modules at `places` are linked with, where their loader looks."""
    files = [f for place in places for f in ([place] if place.is_file() else place.rglob("*.so*")) if f.is_file()]
    said = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    if missing := sorted(set(re.findall(r"^\s*(\S+) => not found", said, re.MULTILINE))):
        raise ImageError(f"libraries {', '.join(missing)} are linked with but not installed here; install them")
    known = {file.name for file in files}
    for found in sorted(set(re.findall(r"(?:=> |^\s*)(/\S+) \(0x", said, re.MULTILINE))):
        if Path(found).name not in known:  # a wheel's own libraries travel with it
            yield Entry(_standard(found), Path(found).resolve(), 0o755)


def _standard(path: str) -> str:
    """Where the loader finds it: its own folders stay, others (an interpreter's prefix) become /usr/local/lib's."""
    if path.startswith(("/lib", "/usr/lib")):
        return path if path.startswith("/lib64/") else f"/lib/{platform.machine()}-linux-gnu/{Path(path).name}"
    return f"/lib/{platform.machine()}-linux-gnu/{Path(path).name}"


def _system() -> Iterator[Entry]:
    """What programs expect of any system: users, authorities for HTTPS, a place to write."""
    yield Entry("/etc/passwd", f"root:x:0:0:root:/root:/sbin/nologin\nforebay:x:{USER}:{USER}::/tmp:/sbin/nologin\n".encode())
    yield Entry("/etc/group", f"root:x:0:\nforebay:x:{USER}:\n".encode())
    yield Entry("/etc/nsswitch.conf", b"hosts: files dns\n")
    yield Entry("/tmp", mode=0o1777)
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")
    if authorities.exists():
        yield Entry(str(authorities), authorities)
        yield Entry("/usr/lib/ssl/certs", link="/etc/ssl/certs")
        yield Entry("/usr/lib/ssl/cert.pem", link=str(authorities))
    for service in ("libnss_files.so.2", "libnss_dns.so.2"):  # loaded by name; separate from libc in older releases
        at = Path(f"/lib/{platform.machine()}-linux-gnu/{service}")
        if at.exists():
            yield Entry(str(at), at.resolve(), 0o755)


def small(path: Path, name: str, program: Path, links: Iterable[str] = ()) -> None:
    """An image of one static program: `pause`, or busybox with `links` as its applets."""
    with tempfile.TemporaryDirectory() as scratch:
        entries = [Entry(f"/bin/{program.name}", program, 0o755), Entry("/tmp", mode=0o1777)]
        entries += [Entry(f"/bin/{link}", link=program.name) for link in links if link != program.name]
        layer = write_layer(Path(scratch) / "layer.tar", entries)
        write_image(path, name, [layer], {"Env": ["PATH=/bin"], "Entrypoint": [f"/bin/{program.name}"] if not links else []})


def main() -> int:
    parser = argparse.ArgumentParser(description=f"Writes {NAME} of this working tree as a docker-archive.")
    parser.add_argument("path", type=Path, help="the file to write")
    try:
        forebay(parser.parse_args().path)
    except ImageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
