"""A whole cluster taken in once, for a question: the same copies as the scheduler's, and a core that nobody obeys."""

from __future__ import annotations

import queue
import time
from typing import Any

from forebay.kube.transport import Transport
from forebay.scheduler.groups import Groups
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.copies import Copies, always, rank
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.questions.why import View


class NotWhole(Exception):
    """The cluster could not be read in time; the sentence says what is missing."""


def look(transport: Transport, settings: Configuration, timeout: float) -> View:
    """Reads everything that the scheduler reads. Raises NotWhole, and what the transport raises."""
    told = queue.SimpleQueue[tuple[str, Any, Any]]()
    copies = Copies(transport, lambda kind, old, new: told.put((kind, old, new)))
    end = time.monotonic() + timeout
    try:
        copies.watch(always(settings.unhealthy_gpus))
        copies.discover()
        if not copies.wait(max(0.1, end - time.monotonic())):
            missing = "; ".join(f"{name}{f' ({why})' if why else ''}" for name, why in copies.unsynced())
            raise NotWhole(
                f"after {timeout:.0f} s these are not read: {missing}; they need get, list and watch in all namespaces"
            )
    finally:
        copies.stop()
    view = View(Core(settings, Groups(), time.time_ns))
    found = list[tuple[str, Any, Any]]()
    while not told.empty():
        found.append(told.get_nowait())
    for kind, old, new in sorted(found, key=lambda one: rank(one[0])):
        view.core.apply(kind, old, new)
        if kind == "Pod":
            pod = new if new is not None else old
            name = f"{pod.metadata.namespace}/{pod.metadata.name}"
            if new is not None:
                view.pods[name] = new
            else:
                view.pods.pop(name, None)
    return view
