"""Refusals with the specification's codes: one sentence that names object, field, value and remedy."""

from __future__ import annotations

from typing import Literal

Code = Literal[
    "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
]  # fmt: skip
"""Names of gRPC status codes that are used here."""


class Refusal(Exception):
    """A call that is not carried out. `str()` never holds the value of a secret."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code


def malformed(field: str, why: str) -> Refusal:
    return Refusal("INVALID_ARGUMENT", f"{field} {why}")
