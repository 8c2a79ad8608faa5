"""Reading numbers, policies and lists that labels, annotations and specs hold. What is wrong is raised as a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from forebay.api.problem import did_you_mean, show
from forebay.scheduler.groups.said import POLICIES, Object, Policy

MOST = 1 << 31
"""Pods of a gang: an int32 in every API that has the field."""
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Mistake(ValueError):
    """`str()` is a whole sentence without the source: field, value, what is wrong; remedy."""


def mapping(value: object) -> Object:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def texts(value: object) -> dict[str, str]:
    """Labels or annotations."""
    return {str(key): str(text) for key, text in mapping(value).items()}


def text(value: object) -> str:
    """The value if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def count(field: str, value: object, least: int = 1) -> int | None:
    """A number of pods, as a number or as text; None where there is none."""
    if value is None:
        return None
    number = value if isinstance(value, int) and not isinstance(value, bool) else -1
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        number = int(value)
    if not least <= number < MOST:
        raise Mistake(f"{field} {show(value)} is no number of pods; write a whole number from {least}")
    return number


def counts(field: str, value: object) -> dict[str, int]:
    """Numbers of pods by name; those that ask for none are left out."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Mistake(f"{field} {show(value)} is no mapping; write a number of pods for each name")
    found = {str(name): count(f"{field}.{name}", number, least=0) for name, number in value.items()}
    return {name: number for name, number in found.items() if number}


def policy(field: str, value: object) -> Policy | None:
    """A match policy; None where there is none."""
    if value is None or value == "":
        return None
    for one in POLICIES:
        if value == one:
            return one
    remedy = did_you_mean(str(value), POLICIES, f"write one of {', '.join(POLICIES)}")
    raise Mistake(f"{field} {show(value)} is no match policy; {remedy}")


def seconds(field: str, value: object) -> float | None:
    """A time as seconds (a number) or as Go writes durations ("10m30s"); None where there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return float(value)
    if isinstance(value, str):
        parts = _DURATION.findall(value)
        total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        if "".join(number + unit for number, unit in parts) == value and 0 < total < 1e9:
            return total
    raise Mistake(f'{field} {show(value)} is no time; write seconds above 0 as a spec has them, or "10m" in an annotation')


def partners(field: str, value: object) -> tuple[str, ...]:
    """A gang group: full names of gangs, as a JSON list in a string; sorted, () where there are none."""
    if value is None or value == "":
        return ()
    try:
        listed = json.loads(str(value))
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, list) or not all(isinstance(one, str) and one.count("/") == 1 for one in listed):
        raise Mistake(f'{field} {show(value)} is no list of gangs; write JSON, such as ["team-a/ps","team-a/worker"]')
    return tuple(sorted(set(listed)))
