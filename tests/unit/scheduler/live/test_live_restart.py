"""A start in a cluster that is full already, on bodies as an API server sends them: what runs is booked, what waits is bound."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import replayapi
from controlplane_kit import until

from forebay.kube.config import Endpoint
from forebay.kube.transport import Transport
from forebay.scheduler.live.process import Options, Scheduler

NODES, PODS, WAITING, CLASSES = 20, 1100, 7, 50
PATIENCE = 120.0


@pytest.fixture
def server() -> Iterator[replayapi.Server]:
    """Pods in three pages."""
    server = replayapi.Server(0, replayapi.world(NODES, PODS, WAITING, CLASSES))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_runs_is_booked_and_what_waits_is_bound(server: replayapi.Server) -> None:
    begun = list[int]()
    transport = Transport(Endpoint(f"http://127.0.0.1:{server.server_address[1]}"), kept=32)
    scheduler = Scheduler(transport, Options(elect=False, begun=lambda: begun.append(len(server.bound))))
    scheduler.start()
    try:
        until(lambda: len(server.bound) == WAITING, PATIENCE, scheduler.unready)
        until(lambda: not len(scheduler.core.flights), PATIENCE)
    finally:
        assert scheduler.stop()
        transport.close()
    assert begun == [0]  # once, before anything was decided
    books = scheduler.core.books
    assert len(books.cluster.pods) == PODS + WAITING
    asked = [number % CLASSES for number in range(PODS)]
    cpu = sum(100 + 50 * (form % 17) for form in asked)
    waiting = sum(
        int(one["spec"]["containers"][0]["resources"]["requests"]["cpu"].rstrip("m")) for one in server.served.waiting.values()
    )
    rows = books.cluster.nodes
    assert int((books.cluster.allocatable[rows, 0] - books.cluster.free[rows, 0]).sum()) == cpu + waiting
    shares = sum(form % 10 in (5, 6) for form in asked)
    held = sum(use.memory >> 30 for node in books.cluster.names for use in books.devices.used(node).values())
    assert held == shares  # a GiB each, on the card that its annotations name
    assert books.devices.overfull() == []
    lists = sum(count for what, count in server.asked.items() if what == "GET /api/v1/pods")
    assert lists == 3 + 1  # pages, and a watch
