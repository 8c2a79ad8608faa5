"""Makes `tests/support` importable (`import faultserver`), and makes CI repeat the same random examples."""

import os
import sys
from pathlib import Path

import hypothesis

sys.path.insert(0, str(Path(__file__).parent / "support"))

# A find of Hypothesis belongs to who ran it, not to the next unrelated change.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")
