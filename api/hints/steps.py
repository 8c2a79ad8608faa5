"""When sizes that moved are worth telling at once; smaller steps wait. Every write costs all who watch."""

from __future__ import annotations

PART = 0.01
LEAST = 1 << 20


def large(moved: int, size: int) -> bool:
    """Whether so many bytes more or less, of a dataset of `size`, are a large step: a hundredth of it and a mebibyte at least; of
    one that is smaller than two mebibytes half of it, since who has just loaded it wants to see that."""
    return moved > 0 and moved >= max(PART * size, min(LEAST, size // 2))
