"""Pods of gangs that have a node, ended ones included: what the gang's policy counts with."""

from __future__ import annotations

from forebay.api.kubernetes.core import Pod


class Members:
    """By gang."""

    def __init__(self) -> None:
        self._all: dict[str, dict[str, Pod]] = {}

    def seen(self, gang: str, pod: Pod) -> None:
        """As the pod is now."""
        self._all.setdefault(gang, {})[pod.metadata.uid] = pod

    def gone(self, gang: str, uid: str) -> bool:
        """The pod is deleted; whether it was the last."""
        there = self._all.get(gang)
        if there is None or there.pop(uid, None) is None or there:
            return False
        del self._all[gang]
        return True

    def of(self, gang: str) -> list[Pod]:
        return list(self._all.get(gang, {}).values())
