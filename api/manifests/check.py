"""What `forebay check` answers, and admission later: offline, pure, nothing but the files' own contents."""

from __future__ import annotations

from collections.abc import Iterable

from forebay.api.manifests.loaded import Loaded
from forebay.api.problem import Problem


def check(loaded: Loaded) -> list[Problem]:
    """Every finding once, in the order of files and lines; errors before warnings on one line."""
    unique = dict.fromkeys(loaded.problems)
    order: dict[str, int] = {}
    for problem in unique:
        order.setdefault(problem.file, len(order))
    return sorted(unique, key=lambda p: (order[p.file], p.line, p.severity != "error"))


def exit_code(problems: Iterable[Problem]) -> int:
    """1 where one is an error, 0 with warnings only."""
    return 1 if any(p.severity == "error" for p in problems) else 0


def summary(problems: Iterable[Problem]) -> str:
    """`2 errors, 1 warning`."""
    counts = {"error": 0, "warning": 0}
    for problem in problems:
        counts[problem.severity] += 1
    return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items())
