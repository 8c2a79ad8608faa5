"""Whether those who serve a dataset have taken over its changed configuration, before its readers see it.

The driver reads the ConfigMap at once; worker pods get it when their kubelet looks, up to a minute later. Until then they know
no mount that was added, and whoever opened it would get an error. So a node shows a change once all workers that answer serve it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from forebay.cache.log import log
from forebay.cache.members.roster import Listed
from forebay.cache.peers.auth import Key, load_secret
from forebay.cache.peers.control_client import ControlClient
from forebay.cache.peers.controlwire import ControlError
from forebay.fuse.csi.volumes.site import Site

PATIENCE = 120.0
"""Seconds after which a change is shown anyway: a worker that cannot take it over must not keep it from the others."""
EVERY = 1.0
Ask = Callable[[Site, str], str | None]
"""Which revision a worker serves, by the address of its control door; None: it cannot say, and is not waited for."""


class Agreement:
    """One question at a time for each dataset, in a thread that ends with its answer."""

    def __init__(self, ask: Ask | None = None, *, patience: float = PATIENCE, every: float = EVERY) -> None:
        self._ask = ask or served
        self._patience, self._every = patience, every
        self._lock = threading.Lock()
        self._asked: dict[str, str] = {}  # dataset -> revision that is being asked for, or was agreed on
        self._agreed: dict[str, str] = {}

    def reached(self, site: Site, revision: str, members: Sequence[Listed]) -> bool:
        """Whether a revision may be shown. Never blocks: begins to ask where it is new."""
        with self._lock:
            if self._agreed.get(site.id) == revision:
                return True
            if self._asked.get(site.id) != revision:
                self._asked[site.id] = revision
                doors = [member.control for member in members if member.control]
                threading.Thread(target=self._wait, args=(site, revision, doors), name="csi-agreement", daemon=True).start()
        return False

    def forget(self, site: Site) -> None:
        with self._lock:
            self._asked.pop(site.id, None)
            self._agreed.pop(site.id, None)

    def _wait(self, site: Site, revision: str, doors: list[str]) -> None:
        deadline = time.monotonic() + self._patience
        while doors:
            doors = [door for door in doors if self._ask(site, door) not in (None, revision)]
            with self._lock:
                if self._asked.get(site.id) != revision:
                    return  # there is a newer one
            if doors and time.monotonic() > deadline:
                log("csi", "not_agreed", dataset=site.id, revision=revision, workers=doors)
                break
            if doors:
                time.sleep(self._every)
        with self._lock:
            if self._asked.get(site.id) == revision:
                self._agreed[site.id] = revision


def served(site: Site, door: str) -> str | None:
    """What a worker says at its control door."""
    try:
        client = ControlClient(Key(load_secret(site.secret), site.id))
    except ValueError:
        return None
    try:
        found = client.stats(door).get("config")
        return str(found["revision"]) if found else None
    except (ControlError, KeyError, TypeError):
        return None
    finally:
        client.close()
