"""What a scrape shows."""

from __future__ import annotations

from kubeproxy import KubeProxy, Say
from prometheus_client import CollectorRegistry, generate_latest

from forebay.kube.client import Client
from forebay.kube.informer import Informer
from forebay.kube.leader import Leader
from forebay.kube.metrics import Collector
from forebay.kube.objects import Bare, Key
from forebay.kube.recorder import Recorder
from forebay.kube.resources import NODES
from forebay.kube.store import Store
from forebay.kube.transport import Transport
from forebay.kube.workers import Workers


def test_a_scrape_shows_every_part_by_its_name() -> None:
    with KubeProxy() as server:
        server.plan = lambda asked: Say(200, body={"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {"name": "a"}}]})
        transport = Transport(server.endpoint)
        client, workers = Client(transport), Workers[str]("w", lambda key: None, count=1)
        informer = Informer(transport, NODES, Bare, Store[Bare]())
        informer.start()
        assert informer.wait_synced(60)
        workers.add("x")
        client.list_all(NODES, Bare)
        collector, registry = Collector(), CollectorRegistry()
        parts = {
            "nodes": informer,
            "datasets": workers,
            "main": client,
            "events": Recorder(client, "forebay.io/test", "p"),
            "lease": Leader(transport, Key("n", "l"), "me", led=lambda: None, lost=lambda why: None),
        }
        for name, part in parts.items():
            collector.add(name, part)
        registry.register(collector)
        text = generate_latest(registry).decode()
        assert informer.stop()
    for line in (
        'forebay_copy_objects{copy="nodes"} 1.0',
        'forebay_copy_synced{copy="nodes"} 1.0',
        'workqueue_depth{name="datasets"} 1.0',
        'workqueue_adds_total{name="datasets"} 1.0',
        'forebay_api_calls_total{client="main",kind="reads"} 1.0',
        'forebay_events_not_written_total{recorder="events",why="dropped"} 0.0',
        'leader_election_master_status{name="lease"} 0.0',
    ):
        assert line in text
