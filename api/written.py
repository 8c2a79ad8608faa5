"""Files that a program writes from what is known elsewhere: which are stale, and writing just those."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def stale(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Names of files, of which the texts are given, that differ from what they should be, are missing, or are of nothing now."""
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def bring(folder: Path, wanted: Mapping[str, str], names: list[str], *, check: bool, program: str) -> int:
    """Writes or removes the named files below `folder`; `check`: says on stderr that `program` would. Returns the exit code."""
    if check:
        for name in names:
            sys.stderr.write(f"{folder / name}: is not what would be written; run python -P -m {program} {folder}\n")
        return 1 if names else 0
    for name in names:
        if name in wanted:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(wanted[name])
        else:
            (folder / name).unlink()
    return 0
