"""What is wrong with a manifest, as one sentence a person can act on. Secret values never reach a `Problem`."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Literal

import msgspec

Severity = Literal["error", "warning"]

SHOWN = 80
"""Characters of a bad value that a message repeats."""

HIDDEN = "(hidden)"
"""Stands for a value that may be a secret."""

_USERINFO = re.compile(r"(?<=//).*@", re.DOTALL)  # to the last @: keys hold slashes
_SECRETISH = re.compile(
    r"secret|encrypt|passw|passphrase|pwd|token|credential|private|signature|metaurl|auth|cookie|header|bearer|"
    r"(access|api|account|sas|storage)[-_.]?key|\bsas\b|(^|[-_.])key$|^access$|certificate|keytab|dsn|\bpass\b",
    re.IGNORECASE,
)


class Problem(msgspec.Struct, frozen=True):
    """One finding. `field` is a path such as `spec.mounts[0].path`; `line` is 0 where no line is to blame.

    `message` continues the value ('is no Kubernetes quantity'), `remedy` says what to do next.
    """

    severity: Severity
    file: str
    line: int
    object: str  # "Dataset default/lake", "" for a whole file
    field: str
    value: str  # ready to be shown: quoted, shortened, hidden where it may be a secret
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        subject = " ".join(part for part in (self.field, self.value, self.message) if part)
        who = f"{self.object}: " if self.object else ""
        rest = f"; {self.remedy}" if self.remedy else ""
        text = f"{where}: {self.severity}: {who}{subject}{rest}"
        return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)  # a file's name may hold any


def secretish(name: str) -> bool:
    """Whether a name sounds like one whose value must not be shown. Errs on the side of hiding."""
    return _SECRETISH.search(name) is not None


def strip_credentials(url: str) -> str:
    """A URL without user information, query and fragment: signed links carry keys there."""
    match = re.search(r"[?#]", url := _USERINFO.sub("", url))
    return f"{url[: match.start()]}{match[0]}..." if match else url


def describe_url(url: str) -> str:
    """A mount point as a message may show it, whatever its shape: without whatever stands before the last @."""
    return show(strip_credentials(url if "//" in url else url.rpartition("@")[2]))


def show(value: object, name: str = "") -> str:
    """A value as a message may repeat it: JSON, at most `SHOWN` characters, no credentials; hidden if `name` is secretish."""
    if name and secretish(name):
        return HIDDEN
    if isinstance(value, str):
        value = strip_credentials(value)
        value = value if len(value) <= SHOWN else value[: SHOWN - 3] + "..."
        return json.dumps(value)
    if isinstance(value, dict):
        return "{...}" if value else "{}"
    if isinstance(value, list):
        return "[...]" if value else "[]"
    return json.dumps(value)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """`did you mean "x"?` for the nearest known word, else `otherwise`."""
    names = list(known)
    folded = {n.lower(): n for n in reversed(names)}
    near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6 if len(word) > 3 else 0.5)
    return f'did you mean "{folded[near[0]]}"?' if near else otherwise
