"""Where a dataset's processes meet on one machine: the run directory and the names in it.

    <run root>/<namespace>/<name>/            of one of several nodes: <name>@<node>/
        spec.json         the resolved dataset, mode 0600 (it carries secrets)
        state.json        what the supervisor observes: processes, mounts, readiness
        worker.sock       the worker's door              worker.log
        supervisor.sock   status and stop                supervisor.log     supervisor.lock
        mount-<i>.json    what the kernel granted mount i: passthrough, resend, minor, reason
        mount-<i>.log
        said.json         what a worker of several tells its node of itself (`forebay.api.hints.said`)

Beside it, `<name>.lock` is held by the command that starts or stops the dataset. Nothing here survives `down`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

SPEC = "spec.json"
STATE = "state.json"
WORKER_SOCK = "worker.sock"
WORKER_LOG = "worker.log"
SUPERVISOR_SOCK = "supervisor.sock"
SUPERVISOR_LOG = "supervisor.log"
SUPERVISOR_LOCK = "supervisor.lock"
SAID = "said.json"

SUN_PATH = 107
"""Bytes of a Unix socket's address: the kernel's `sun_path` less the final NUL."""

_LABEL_MAX = 30
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


def mount_log(i: int) -> str:
    return f"mount-{i}.log"


def mount_state(i: int) -> str:
    """What mount daemon `i` writes once INIT is answered."""
    return f"mount-{i}.json"


def escape(name: str) -> str:
    """A name as one path component: nothing but [A-Za-z0-9_.-], never "." or "..", at most 30 bytes, still distinct.

    DNS labels up to 30 characters come back unchanged; a longer one keeps its head and gets 8 hex digits of its hash,
    so that the sockets below stay within `SUN_PATH`.
    """
    safe = _UNSAFE.sub("_", name)
    if safe == name and len(name) <= _LABEL_MAX and name.strip("."):
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return f"{safe.lstrip('.')[: _LABEL_MAX - 9]}-{digest}"


def run_root(environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """$FOREBAY_RUN_DIR; else /run/forebay for root; else $XDG_RUNTIME_DIR/forebay; else /tmp/forebay-<uid>."""
    env = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    if given := env.get("FOREBAY_RUN_DIR"):
        return Path(given).absolute()
    if uid == 0:
        return Path("/run/forebay")
    if runtime := env.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "forebay"
    return Path(f"/tmp/forebay-{uid}")


def run_dir(namespace: str, name: str, node: str = "", *, root: Path | None = None) -> Path:
    """The run directory of a dataset, or of one node of it. It exists only while that is up."""
    return (root or run_root()) / escape(namespace) / (_of_node(name, node) if node else escape(name))


def _of_node(name: str, node: str) -> str:
    """`name@node` as one path component, as long as one of `escape` at most and different from each of those."""
    plain = f"{name}@{node}"
    if escape(name) == name and escape(node) == node and len(plain) <= _LABEL_MAX:
        return plain
    digest = hashlib.blake2b(f"{name}\0{node}".encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return f"{_UNSAFE.sub('_', name).lstrip('.')[: _LABEL_MAX - 9]}@{digest}"


def command_lock(run: Path) -> Path:
    """Lock file of the commands that start or stop the dataset with this run directory."""
    return run.with_name(run.name + ".lock")


def make_private(path: Path) -> Path:
    """Create `path` and its missing parents with mode 0700.

    `PermissionError` when it is a link, belongs to somebody else or others may write to it: the run root may lie in
    /tmp, where another user could have put a directory of that name first.
    """
    if not path.parent.exists():
        make_private(path.parent)
    path.mkdir(exist_ok=True, mode=0o700)
    st = path.lstat()
    if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.geteuid() or st.st_mode & 0o022:
        raise PermissionError(
            f"{path} must be a directory of yours that nobody else may write to: "
            "remove it or change its mode, or set FOREBAY_RUN_DIR to one that is"
        )
    return path


@contextlib.contextmanager
def socket_address(path: Path | str) -> Iterator[str]:
    """An address for bind() or connect() to `path` that fits `SUN_PATH`, however deep the run root lies."""
    text = os.fspath(path)
    if len(os.fsencode(text)) <= SUN_PATH:
        yield text
        return
    folder = os.open(os.path.dirname(text) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(text)}"
    finally:
        os.close(folder)


def datasets_up(root: Path | None = None) -> list[Path]:
    """Run directories that hold a spec, sorted: datasets and nodes that are up, or were when their processes were killed."""
    return sorted(p.parent for p in (root or run_root()).glob(f"*/*/{SPEC}"))
