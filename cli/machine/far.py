"""Members on other machines, asked at their control doors, which open to the dataset's secret."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any

FAR_LIMIT = 3.0
"""Seconds for all of them together."""


def ask(dataset: str, secret_file: str, addresses: Sequence[str]) -> list[dict[str, Any]]:
    """What the workers behind these control doors report, {} for those that do not answer within `FAR_LIMIT` seconds."""
    from forebay.cache.peers.auth import Key, load_secret
    from forebay.cache.peers.control_client import ControlClient
    from forebay.cache.peers.controlwire import ControlError

    found: list[dict[str, Any]] = [{} for _ in addresses]
    try:
        client = ControlClient(Key(load_secret(secret_file), dataset))
    except ValueError:
        return found  # `up` refused it with a sentence; changed since

    def one(i: int, address: str) -> None:
        with contextlib.suppress(ControlError):
            found[i] = client.stats(address)

    threads = [threading.Thread(target=one, args=(i, a), daemon=True) for i, a in enumerate(addresses)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + FAR_LIMIT
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    answers = list(found)
    client.close()
    return answers
