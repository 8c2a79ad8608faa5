"""Runs csi-sanity in full against a real driver with a real dataset: `python -P tests/support/csi_sanity.py PROGRAM [OPTION]...`

Exit code: csi-sanity's own, or 1 where something was left mounted. Options go to csi-sanity (`--ginkgo.focus=...`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).parent))

import yaml
from csilab import CsiLab

LIMIT = 1200
LEAST = 37
"""Tests that ran when this was written: fewer would mean that a capability was lost."""


def main(program: str, *options: str) -> int:
    if why := forbidden():
        print(f"csi-sanity cannot run here: {why}", file=sys.stderr)
        return 1
    root = Path(tempfile.mkdtemp(prefix="fb-sanity-", dir="/tmp"))
    try:
        with CsiLab(root, options=("--controller",)) as lab:
            return run(program, lab, options)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def forbidden() -> str:
    """What this machine does not allow; "" where everything is."""
    if os.geteuid() != 0:
        return "a CSI driver mounts and needs root"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"a dataset's mount needs /dev/fuse ({error.strerror}): modprobe fuse, or give the device to this container"
    return ""


def run(program: str, lab: CsiLab, options: tuple[str, ...]) -> int:
    parameters = lab.root / "parameters.yaml"
    parameters.write_text(yaml.safe_dump({"forebay.io/dataset": "default/lab"}))
    secrets = lab.root / "secrets.yaml"
    named = ("CreateVolumeSecret", "DeleteVolumeSecret", "NodeStageVolumeSecret", "NodePublishVolumeSecret")
    secrets.write_text(yaml.safe_dump({name: {"secret": lab.secret} for name in named}))
    folder = lab.kubelet / "sanity"
    folder.mkdir()
    argv = [
        program, f"--csi.endpoint=unix://{lab.socket}", f"--csi.mountdir={folder}/target", f"--csi.stagingdir={folder}/staging",
        f"--csi.testvolumeparameters={parameters}", f"--csi.secrets={secrets}", *options,
    ]  # fmt: skip
    report = lab.root / "junit.xml"
    code = subprocess.run([*argv, f"--csi.junitfile={report}"], timeout=LIMIT, check=False).returncode
    code = code or judged(report)
    left = [path for path in lab.mounts() if path != str(lab.mount)]
    if left:
        print(f"still mounted: {left}", file=sys.stderr)
    return code or int(bool(left))


def judged(report: Path) -> int:
    """1 where a test was skipped for another reason than a capability that is not offered; says how many ran."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    skips = [why.get("message") or "" for case in cases if (why := case.find("skipped")) is not None]
    other = [why for why in skips if not why.endswith("not supported") and why != "pending"]  # pending: by the suite itself
    print(f"csi-sanity: {len(cases) - len(skips)} ran, {len(skips)} skipped, {len(other)} of these for another reason {other}")
    return int(bool(other) or len(cases) - len(skips) < LEAST)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
