"""Keeps idle cores from halting while small requests follow each other.

A reader sleeps from its request to our reply, and with nothing else to do its core halts. In a virtual machine the host has
to start it again. The kernel's own answer is a latency request (PM QoS): while one of 0 is open in a guest, idle cores poll
for work instead of halting. Measured on two cores of a guest: 10,000 opens/s without, 42,000 with it. Not measured on bare
metal, where sleep states say what they cost (C1 1-2 us, deeper ones 100).

The request is a descriptor, so it ends with this process whatever ends it. It costs power: every idle core of the machine
polls (in a guest) or stays in its lightest sleep (elsewhere) while it holds, so the dispatcher asks for it only while it
polls itself: from requests within 200 us of each other until 20 ms without one.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

DEVICE = Path("/dev/cpu_dma_latency")
"""The door of PM QoS (Documentation/power/pm_qos_interface.rst): four bytes, the latency in us that is borne."""
DRIVER = Path("/sys/devices/system/cpu/cpuidle/current_driver")
SWITCH = "FOREBAY_LET_CORES_SLEEP"
"""Set to anything in the environment of `up`, no request is made."""
NEVER_HALT, LIGHT_SLEEP, ANY = 0, 2, 2_000_000_000
"""Latencies in us: idle cores poll; the first sleep state of bare metal (C1, 1-2 us) is allowed; the kernel's default."""


class Awake:
    """One process's request. Each change is one write(2); without the right to make it nothing happens."""

    def __init__(self) -> None:
        self.why = ""
        """Why cores are left to halt; empty where the request can be made."""
        self._fd = -1
        self._held = False
        self._hold = struct.pack("i", _bound())
        if os.environ.get(SWITCH):
            self.why = f"switched off by {SWITCH}"
            return
        try:
            self._fd = os.open(DEVICE, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as e:
            self.why = f"{DEVICE}: {e.strerror}"

    def hold(self, *, wanted: bool = True) -> None:
        """Make the request, or take it back."""
        if wanted != self._held and self._fd >= 0:
            self._held = wanted
            os.write(self._fd, self._hold if wanted else _ANY)

    def release(self) -> None:
        self.hold(wanted=False)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_ANY = struct.pack("i", ANY)


def _bound() -> int:
    """A guest's idle driver calls its halt a sleep of 1 us, which it is not: there only polling helps."""
    try:
        driver = DRIVER.read_text().strip()
    except OSError:
        return LIGHT_SLEEP
    return NEVER_HALT if driver == "haltpoll" else LIGHT_SLEEP
