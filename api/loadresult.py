"""What the pod of a DataLoad says at its end (in its termination message), and who it is when it writes how far it is."""

from __future__ import annotations

import msgspec

from forebay.api.crd.structs import Written
from forebay.api.fluid.status import Progress

MANAGER = "forebay-loader"
"""Field manager of `status.progress` while the load runs; the rest of the status is the controller's."""
FINAL = 2
"""Exit code of a load that another try would not mend."""
MOST = 4096
"""Bytes that the kubelet keeps."""


class LoadResult(Written, frozen=True):
    """`reason` "" says that all is loaded. `milliseconds` of this pod alone."""

    reason: str = ""
    message: str = ""
    notes: str = ""
    milliseconds: int = 0
    progress: Progress = Progress()


def encode(result: LoadResult) -> bytes:
    """At most `MOST` bytes: long words are cut."""
    text, most = msgspec.json.encode(result), MOST
    while len(text) > MOST:
        most //= 2
        cut = msgspec.structs.replace(result, message=result.message[:most], notes=result.notes[: most // 2])
        text = msgspec.json.encode(cut)
    return text


def decode(text: str) -> LoadResult | None:
    """None for what is none: the last lines of a log, or nothing."""
    try:
        return msgspec.json.decode(text.encode(), type=LoadResult)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
