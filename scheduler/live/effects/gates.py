"""Carries out what gates mode decided: pins pods that wait at our gate to their nodes, and opens it, a gang at once.

All patches of a gang are rehearsed (dry run) before the first is made, so that what the server would refuse is found while
nothing is done. What fails after that is a gang in part, which `Opened` reports when its time is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from forebay.kube.client import Client
from forebay.kube.config import ConfigError
from forebay.kube.errors import ApiError, Conflict, NotFound, Unreachable, Unusable
from forebay.kube.leader import NotLeading
from forebay.kube.objects import Key
from forebay.kube.resources import PODS
from forebay.scheduler.live.instructions import Bind, Outcome
from forebay.scheduler.live.intentions import GATE, INTENTION, Intention, opening, render

TRIES = 5
"""Times that a pod is read anew because somebody wrote to it meanwhile: kubelets do not yet, controllers may."""

Failures = (ApiError, Unreachable, Unusable, ConfigError, NotLeading)


class Gates:
    """`write` is called from any thread, with all binds of an attempt. `clock`: seconds of the epoch."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client, self._clock = client, clock

    def write(self, binds: Sequence[Bind]) -> list[Outcome]:
        """One outcome for each. Where the rehearsal of one fails nothing is done, and the others are `withheld`."""
        now = self._clock()
        for bind in binds:
            failed = self._open(bind, now, rehearse=True)
            if failed is not None:
                why = f"pod {bind.pod}: {failed.sentence}"
                others = [Outcome(one.number, one.pod.uid, "withheld", why) for one in binds if one is not bind]
                return [failed, *others]
        return [self._open(bind, now, rehearse=False) or Outcome(bind.number, bind.pod.uid, "bound") for bind in binds]

    def _open(self, bind: Bind, now: float, *, rehearse: bool) -> Outcome | None:
        """None where it went well."""
        annotations = {**bind.annotations, **render(Intention(bind.node, bind.gang, now))}
        key = Key(bind.pod.namespace, bind.pod.name)
        for left in reversed(range(TRIES)):
            try:
                pod = self._client.get(PODS, key, dict[str, Any])
                if lost := _lost(pod, bind):
                    ours = pod["metadata"].get("annotations", {}).get(INTENTION) == annotations[INTENTION]
                    return None if ours else Outcome(bind.number, bind.pod.uid, "gone", lost)  # ours: an answer was lost
                self._client.merge(PODS, key, opening(pod, bind.node, annotations), dry_run=rehearse)
            except NotFound as error:
                return Outcome(bind.number, bind.pod.uid, "gone", str(error))
            except Conflict as error:
                if not left:
                    return Outcome(bind.number, bind.pod.uid, "failed", str(error))
            except Failures as error:
                return Outcome(bind.number, bind.pod.uid, "failed", str(error))
            else:
                return None
        raise AssertionError("the last try returns")


def _lost(pod: Mapping[str, Any], bind: Bind) -> str:
    """Why there is nothing to open any more, "" where there is."""
    if pod["metadata"]["uid"] != bind.pod.uid:
        return "another pod of that name is there"
    if all(gate["name"] != GATE for gate in pod["spec"].get("schedulingGates", ())):
        return f"it does not wait at gate {GATE} any more"
    return ""
