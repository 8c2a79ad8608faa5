"""What the pod of a DataLoad says at its end (in its termination message), and who it is when it writes how far it is."""

from __future__ import annotations

import msgspec

from forebay.api.status import Progress
from forebay.api.struct_schema import Written

MANAGER = "forebay-loader"
"""Field manager of `status.progress` while the load runs; the rest of the status is the controller's."""
FINAL = 2
"""Exit code of a load that another try would not mend."""
MESSAGE_MOST, NOTES_MOST = 1500, 1000
"""Characters: the kubelet keeps 4096 bytes in all."""


class LoadResult(Written, frozen=True):
    """`reason` "" says that all is loaded. `milliseconds` of this pod alone."""

    reason: str = ""
    message: str = ""
    notes: str = ""
    milliseconds: int = 0
    progress: Progress = Progress()


def encode(result: LoadResult) -> bytes:
    cut = msgspec.structs.replace(result, message=result.message[:MESSAGE_MOST], notes=result.notes[:NOTES_MOST])
    return msgspec.json.encode(cut)


def decode(text: str) -> LoadResult | None:
    """None for what is none: the last lines of a log, or nothing."""
    try:
        return msgspec.json.decode(text.encode(), type=LoadResult)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
