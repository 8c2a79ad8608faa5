"""An ordinary user's `up`: fusermount3, the same session, no passthrough, the same survival. And the demo, small."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine"),
]

NOBODY = 65534

SCRIPT = r"""
set -eu
top=$1 python=$2 caps=$3
# /dev/fuse as distributions ship it (0666), in a mount namespace of our own
mknod -m 666 "$top/fuse" c 10 229
mount --bind "$top/fuse" /dev/fuse
export HOME="$top/home" XDG_RUNTIME_DIR= FOREBAY_RUN_DIR="$top/run"
as() { setpriv --reuid 65534 --regid 65534 --clear-groups $caps "$@"; }
forebay() { as "$python" -P -m forebay.cli.main "$@"; }
pid() { forebay status -o json | "$python" -c "import json, sys
print(next(p['pid'] for p in json.load(sys.stdin)['datasets'][0]['processes'] if p['role'] == '$1'))"; }
trap 'forebay down >/dev/null 2>&1 || true' EXIT
forebay up -f "$top/d.yaml" --cache-dir "$top/home/cache"
as diff -r "$top/origin" "$top/home/forebay/default/data"
forebay status -o json > "$top/status.json"
forebay doctor -o json > "$top/doctor.json"
for role in mount worker supervisor mount; do
    old=$(pid $role)
    as sh -c "exec 3<'$top/home/forebay/default/data/big'; kill -9 $old; cmp '$top/origin/big' - <&3"
    as diff -r "$top/origin" "$top/home/forebay/default/data"
    n=0; while [ "$(pid $role)" = "$old" ]; do n=$((n+1)); [ $n -lt 100 ]; sleep 0.1; done
done
forebay down
! grep -q "$top/home" /proc/self/mountinfo
test ! -e "$top/home/forebay"
"""


@pytest.fixture
def top() -> Iterator[Path]:
    top = Path(tempfile.mkdtemp(prefix="fb-user-", dir="/tmp"))
    top.chmod(0o755)
    (top / "origin" / "sub").mkdir(parents=True)
    (top / "origin" / "big").write_bytes(os.urandom(20 << 20))
    for i in range(10):
        (top / "origin" / "sub" / f"f{i}").write_bytes(os.urandom(1000 * i))
    (top / "home").mkdir()
    (top / "run").mkdir(mode=0o700)
    for folder in ("home", "run"):
        os.chown(top / folder, NOBODY, NOBODY)
    (top / "d.yaml").write_text(
        "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: data}\nspec:\n  mounts:\n"
        f"  - mountPoint: local://{top}/origin\n    path: /\n"
    )
    try:
        yield top
    finally:
        shutil.rmtree(top, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes nobody, which only root can")
def test_an_ordinary_users_life(top: Path) -> None:
    tool = shutil.which("fusermount3")
    if tool is None or not os.stat(tool).st_mode & stat.S_ISUID:
        pytest.skip("fusermount3 is not installed setuid root: apt install fuse3")
    # a Python below /root is readable for nobody with this one capability, which gives no right to mount
    caps = "--inh-caps +dac_read_search --ambient-caps +dac_read_search"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", SCRIPT, "script", str(top),
         sys.executable, caps],
        capture_output=True, text=True, timeout=110, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (dataset,) = json.loads((top / "status.json").read_text())["datasets"]
    (point,) = dataset["mountpoints"]
    assert point["passthrough"] is False
    assert "CAP_SYS_ADMIN" in point["reason"]
    assert any("CAP_SYS_ADMIN" in note for note in dataset["notes"])
    findings = {f["subject"]: f for f in json.loads((top / "doctor.json").read_text())["findings"]}
    assert findings["passthrough"]["level"] == "warning"
    assert "CAP_SYS_ADMIN" in findings["passthrough"]["text"]
    assert findings["fusermount3"]["level"] == "ok"


def test_demo_shows_every_byte(tmp_path: Path) -> None:
    pytest.importorskip("moto.server")
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "forebay.cli.main", "demo", "--size", "6M", "-o", "json"],
        env=env, capture_output=True, text=True, timeout=115, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {p["what"] for p in told["passes"]} == {"from the store", "mount, cold", "mount, warm", "plain disk"}
    assert all(p["wrong"] == [] for p in told["passes"])
    assert sum(p["bytes"] for p in told["passes"] if p["what"] == "mount, cold") > 1 << 20
    assert list(tmp_path.iterdir()) == [], "cleaned up"
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
