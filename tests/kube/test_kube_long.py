"""Long storms over a real API server: faults of the proxy, restarts and compactions all at once, some hundred times."""

from __future__ import annotations

import time
from random import Random

import pytest
from controlplane import ControlPlane
from controlplane_kit import Watched, Writer, until
from kubeproxy import Asked, CutAfter, Fault, KubeProxy, MuteAfter, Say, SayAfter, gone_line, status

from forebay.kube import reflector as r
from forebay.kube.client import Client
from forebay.kube.transport import Transport

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
SECONDS = 180.0


@pytest.mark.parametrize("seed", range(10, 14))
def test_three_minutes_of_everything(
    plane: ControlPlane, client: Client, proxy: KubeProxy, namespace: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Every twenty seconds the faults stop until the copy is the server's truth; once in a while the server is killed."""
    for name, value in (("SHORTEST", 2.0), ("LONGEST", 4.0), ("GRACE", 1.0), ("SILENCE", 2.0)):
        monkeypatch.setattr(r, name, value)
    random, calm, restarts = Random(seed), False, 0

    def plan(asked: Asked) -> Fault | None:
        if calm or random.random() < 0.5:
            return None
        lines = random.randrange(60)
        refusals: list[Fault] = [
            Say(410, body=status(410, "Expired")),
            Say(500),
            Say(429, {"Retry-After": "0"}),
            Say(200, body=b"{"),
        ]
        streams: list[Fault] = [CutAfter(lines), MuteAfter(lines), SayAfter(lines, gone_line())]
        return random.choice(refusals + (streams if asked.watch else []))

    proxy.plan = plan
    end = time.monotonic() + SECONDS
    with Watched(Transport(proxy.endpoint), namespace, page=9, seed=seed, longest_pause=1.0) as watched:
        while time.monotonic() < end:
            calm = False
            with Writer(client, namespace, random.randrange(1 << 30), names=60) as writer:
                time.sleep(random.uniform(5, 20))
                if random.random() < 0.5:
                    random.choice([plane.kill_api_server, plane.stop_api_server])()
                    plane.start_api_server()
                    restarts += 1
                if random.random() < 0.5:
                    plane.compact()
            calm = True
            assert writer.writes > 0
            until(lambda: watched.equals(client, namespace), 60, "the copy is the server's truth")
            watched.check()
    assert restarts
    assert sum(proxy.counts.values()) > 30  # 98 where forty other processes wanted the processor
