"""Makes `tests/support` (`import faultserver`) and `deploy` (`from harness import build`) importable.

Makes CI repeat the same random examples, too.
"""

import os
import sys
from pathlib import Path

import hypothesis

sys.path.insert(0, str(Path(__file__).parent / "support"))
sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

# A find of Hypothesis belongs to who ran it, not to the next unrelated change.
# No deadline: a machine that does other things takes its time, and what is right late is right.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")
