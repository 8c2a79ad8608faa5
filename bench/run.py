"""`bench/run.py --help`. The scripts beside this one import each other by name, with or without PYTHONSAFEPATH."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from command import main

sys.exit(main(sys.argv[1:]))
