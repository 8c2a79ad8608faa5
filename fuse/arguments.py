"""The command line of a mount daemon."""

from __future__ import annotations

import os

NO_PASSTHROUGH = "FOREBAY_NO_PASSTHROUGH"
NO_RESEND = "FOREBAY_NO_RESEND"


class Unconfigured(Exception):
    """Starting again would not help; `str()` is one sentence."""


class Args:
    """The command line. Parsed by hand: argparse costs 15 ms of a reader's pause."""

    def __init__(self, argv: list[str]) -> None:
        self.run_dir = self.mount = ""
        self.index = 0
        self.device_fd = self.state_fd = self.supervisor_fd = -1
        self.passthrough = not os.environ.get(NO_PASSTHROUGH)
        self.resend = not os.environ.get(NO_RESEND)
        words = iter(argv)
        for word in words:
            try:
                match word:
                    case "--run-dir":
                        self.run_dir = next(words)
                    case "--mount":
                        self.mount = next(words)
                    case "--index":
                        self.index = int(next(words))
                    case "--device-fd":
                        self.device_fd = int(next(words))
                    case "--state-fd":
                        self.state_fd = int(next(words))
                    case "--supervisor-fd":
                        self.supervisor_fd = int(next(words))
                    case "--no-passthrough":
                        self.passthrough = False
                    case "--no-resend":
                        self.resend = False
                    case _:
                        raise Unconfigured(f"the mount daemon has no option {word}")
            except (StopIteration, ValueError):
                raise Unconfigured(f"{word} needs a value") from None
        if not self.run_dir or not self.mount or min(self.device_fd, self.state_fd) < 0:
            raise Unconfigured("--run-dir, --mount, --device-fd and --state-fd are needed: the supervisor starts this program")
