"""All of the room together, as a controller uses it: informer, work queue, apply, lease, Events, under faults and restarts.

Each ConfigMap `src-N` shall have a `copy-N` of the same value, and no other copies shall be.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from controlplane import ControlPlane
from controlplane_kit import Map, Watched, Writer, config_map, truth, until
from kubeproxy import Asked, CutAfter, Fault, KubeProxy, Lose, Say, status

from forebay.kube.client import Client
from forebay.kube.objects import Key
from forebay.kube.resources import CONFIG_MAPS
from forebay.kube.store import Change
from forebay.kube.transport import Transport
from forebay.kube.workers import Workers


class Copier:
    """A controller in twenty lines."""

    def __init__(self, watched: Watched, client: Client) -> None:
        self._store, self._client = watched.store, client
        self.workers = Workers[Key]("copier", self._reconcile, count=3)
        watched.store.subscribe(self._changed)

    def _changed(self, change: Change[Map]) -> None:
        self.workers.add(Key(change.key.namespace, change.key.name.replace("copy-", "m")))

    def _reconcile(self, key: Key) -> None:
        if not key.name.startswith("m"):
            return
        source, copy = self._store.get(key), Key(key.namespace, key.name.replace("m", "copy-"))
        have = self._store.get(copy)
        if source is None:
            if have is not None:
                self._client.delete(CONFIG_MAPS, copy, uid=have.metadata.uid)
        elif have is None or have.data != source.data:
            body: dict[str, Any] = config_map(copy.name) | {"data": source.data}
            self._client.apply(CONFIG_MAPS, copy, body)


@pytest.mark.timeout(300)
def test_a_controller_ends_where_it_should_whatever_happens_between(
    plane: ControlPlane, client: Client, proxy: KubeProxy, namespace: str
) -> None:
    random, calm = Random(5), False

    def plan(asked: Asked) -> Fault | None:
        if calm or random.random() < 0.8:
            return None
        if asked.watch:
            return CutAfter(random.randrange(20))
        kinds = [
            Lose(),
            Say(500, body=status(500, "InternalError")),
            Say(429, {"Retry-After": "0"}),
            Say(409, body=status(409, "Conflict")),
        ]
        return random.choice(kinds)

    proxy.plan = plan
    transport = Transport(proxy.endpoint)
    with Watched(transport, namespace, page=5, longest_pause=1.0) as watched:
        copier = Copier(watched, Client(transport))
        copier.workers.start()
        with Writer(client, namespace, seed=3, names=15, pause=0.01) as writer:
            until(lambda: writer.writes > 80, 60)
            plane.kill_api_server()
            plane.start_api_server()
            before = writer.writes
            until(lambda: writer.writes > before + 80, 60)
        calm = True

        def settled() -> bool:
            have = {key.name: value.data for value in watched.store.values() for key in [Key("", value.metadata.name)]}
            sources = {name.replace("m", "copy-"): data for name, data in have.items() if name.startswith("m")}
            return sources == {name: data for name, data in have.items() if name.startswith("copy-")}

        until(lambda: settled() and watched.versions() == truth(client, namespace), 60, "copies are what their sources are")
        watched.check()
        assert copier.workers.stop()
    assert sum(proxy.counts.values()) > 10, proxy.counts
    assert any(key.name.startswith("copy-") for key in truth(client, namespace))
