"""A unit that brings datasets up at every boot, and the one word that systemd waits for."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from forebay.api.spec import DatasetSpec
from forebay.cache.fetch.awake import SWITCH

AMBIENT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE")
"""Variables that a manifest without a Secret takes credentials from, and that systemd does not have."""


def unit(
    files: tuple[Path, ...], specs: list[DatasetSpec], at: Sequence[Path], cache_dir: Path | None, more: Sequence[str] = ()
) -> str:
    """Text of a service unit for `forebay up --foreground` with these arguments and `more`; paths are absolute."""
    argv = [*_command(), "up", "--foreground"]
    for file in files:
        argv += ["-f", str(file.absolute())]
    for mount in at:
        argv += ["--mount", str(mount.absolute())]
    if cache_dir is not None:
        argv += ["--cache-dir", str(cache_dir.absolute())]
    argv += more
    names = ", ".join(s.id for s in specs)
    root = os.geteuid() == 0
    place = (
        f"/etc/systemd/system/forebay-{specs[0].name}.service"
        if root
        else f"~/.config/systemd/user/forebay-{specs[0].name}.service"
    )
    control = "systemctl" if root else "systemctl --user"
    extra = ""
    for name in ("FOREBAY_RUN_DIR", SWITCH):
        if given := os.environ.get(name):
            extra += f"Environment={_quote(f'{name}={given}')}\n"
    if any(os.environ.get(name) for name in AMBIENT):
        extra += f"# credentials of your shell are not in this unit: put {', '.join(AMBIENT)} into a file of mode 0600\n"
        extra += "# EnvironmentFile=/etc/forebay/credentials\n"
    linger = "" if root else "# loginctl enable-linger   (so that it starts at boot, not at login)\n"
    return f"""\
# Save as {place}, then:
# {control} daemon-reload && {control} enable --now forebay-{specs[0].name}
{linger}[Unit]
Description=forebay: {names}
Wants=network-online.target
After=network-online.target local-fs.target remote-fs.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={" ".join(_quote(word) for word in argv)}
{extra}# the supervisor and the mount daemon hold each other's descriptors: only the command is told to stop, it unmounts first
KillMode=mixed
TimeoutStartSec=360
TimeoutStopSec=90
Restart=on-failure
RestartSec=10
LimitNOFILE=1048576
OOMScoreAdjust=-500

[Install]
WantedBy={"multi-user.target" if root else "default.target"}
"""


def _command() -> list[str]:
    found = shutil.which("forebay")
    beside = Path(sys.executable).with_name("forebay")
    if beside.exists():
        return [str(beside)]
    return [found] if found else [sys.executable, "-P", "-m", "forebay.cli.main"]


def _quote(word: str) -> str:
    """A word of ExecStart: % and $ are systemd's own."""
    return shlex.quote(word).replace("%", "%%").replace("$", "$$")


def notify(word: str) -> None:
    """Tell systemd, when it listens ($NOTIFY_SOCKET). sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(word.encode(), "\0" + address[1:] if address.startswith("@") else address)
