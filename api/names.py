"""Names as Kubernetes and a file tree take them."""

from __future__ import annotations

import re

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_1123_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_1123_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

LABEL_MAX = 200
NAME_MAX = 255
"""Bytes of one part of a path."""
PATH_MAX = 4095


def is_dns_1035(name: str) -> bool:
    """At most 63 of a-z, 0-9 and "-"; starts with a letter, ends with a letter or digit."""
    return DNS_1035.fullmatch(name) is not None


def is_namespace(name: str) -> bool:
    return DNS_1123_LABEL.fullmatch(name) is not None


def is_object_name(name: str) -> bool:
    return DNS_1123_SUBDOMAIN.fullmatch(name) is not None


def suggest_dns_1035(name: str) -> str:
    """The nearest valid name, for a remedy."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")
    return text if text and text[0].isalpha() else f"d-{text}"[:63].rstrip("-")


def label(kind: str, namespace: str, name: str) -> str:
    """How messages name an object: `Dataset default/lake`, `ThinRuntimeProfile nfs`; never a control character."""
    text = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
    return re.sub(r"[^\x20-\x7e]", "?", text)[:LABEL_MAX]


def normalise(path: str) -> str:
    """`//a/./b/` is refused, `//a/b/` -> `/a/b`: one absolute path, no empty parts at the ends or between.

    Raises `ValueError` with what is wrong for "." and "..", NUL, other control characters and names that are too long.
    """
    if not path.startswith("/"):
        raise ValueError("is not absolute")
    parts = [p for p in path.split("/") if p]
    for part in parts:
        if part in (".", ".."):
            raise ValueError(f'holds a "{part}" part')
        if "\0" in part:
            raise ValueError("holds a NUL character")
        if any(ord(c) < 32 or ord(c) == 127 for c in part):
            raise ValueError("holds a control character")
        if len(part.encode("utf-8", "surrogateescape")) > NAME_MAX:
            raise ValueError(f"has a part of more than {NAME_MAX} bytes")
    whole = "/" + "/".join(parts)
    if len(whole.encode("utf-8", "surrogateescape")) > PATH_MAX:
        raise ValueError(f"is longer than {PATH_MAX} bytes")
    return whole
