"""Makes `tests/support` (`import faultserver`) and `deploy` (`from harness import build`) importable.

Makes CI repeat the same random examples, and end with a sentence where tests of real mounts would be skipped.
"""

import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))
sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

# A find of Hypothesis belongs to who ran it, not to the next unrelated change.
# No deadline, and no complaint that making examples takes long: a machine that does other things takes its time, and what is
# right late is right.
SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("here", deadline=None, suppress_health_check=SLOW)
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=SLOW)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_sessionstart() -> None:
    """In CI nothing is skipped for what the machine forbids. Interrupts count, whoever runs the tests in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell without job control; the commands under test would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("CI") and (os.geteuid() != 0 or not os.path.exists("/dev/fuse")):
        pytest.exit("the tests mount: in CI they need root and /dev/fuse; without them unset CI, and those tests are skipped", 1)
