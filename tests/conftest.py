"""Makes `tests/support` importable: `import faultserver`. Nothing else belongs here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
