"""Rules between objects: what names what, inside the files and outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forebay.api.manifest import Loaded


def check(loaded: Loaded) -> None:
    """Add problems of references to `loaded.problems`."""
