"""Leases on a real API server: one leader at a time, also when it is cut off, and at once the next when it lets go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from controlplane_kit import config_map, until
from kubeproxy import KubeProxy

from forebay.kube.client import Client
from forebay.kube.election import Timing
from forebay.kube.leader import Leader, NotLeading
from forebay.kube.objects import Key, Lease
from forebay.kube.resources import CONFIG_MAPS, LEASES
from forebay.kube.transport import Transport

FAST = Timing(duration=12.0, renew=9.0, retry=0.3)  # a renewal may wait seconds for the processor of a busy machine
Closing = Callable[[Callable[[], object]], None]


class Candidate:
    """A Leader, when it led, and why it stopped."""

    def __init__(self, transport: Transport, namespace: str, name: str) -> None:
        self.led, self.lost = threading.Event(), threading.Event()
        self.why = ""
        self.leader = Leader(transport, Key(namespace, "it"), name, led=self.led.set, lost=self._lose, timing=FAST)

    def _lose(self, why: str) -> None:
        self.why = why
        self.lost.set()


class Witness:
    """Looks every millisecond whether two lead at once."""

    def __init__(self, *candidates: Candidate) -> None:
        self._candidates = candidates
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most = 0

    def _look(self) -> None:
        while not self._stopping.wait(0.001):
            self.most = max(self.most, sum(candidate.leader.leading for candidate in self._candidates))

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def test_a_leader_that_is_cut_off_stops_before_the_next_begins(
    client: Client, transport: Transport, proxy: KubeProxy, namespace: str, closing: Closing
) -> None:
    first = Candidate(Transport(proxy.endpoint), namespace, "first")
    second = Candidate(transport, namespace, "second")
    closing(second.leader.stop)
    closing(first.leader.stop)
    with Witness(first, second) as witness:
        first.leader.start()
        assert first.led.wait(60)
        client.merge(LEASES, Key(namespace, "it"), {"metadata": {"labels": {"put": "there"}}})
        second.leader.start()
        time.sleep(1.5 * FAST.duration)  # it is renewed all the while
        assert first.leader.leading
        assert not second.led.is_set()
        assert second.leader.holder == "first"
        proxy.silence()
        assert first.lost.wait(60)
        assert "not renewed for" in first.why
        with pytest.raises(NotLeading, match="only the leader writes, this call is not made"):
            first.leader.check()
        assert second.led.wait(60)
    proxy.resume()
    assert witness.most == 1
    lease = client.get(LEASES, Key(namespace, "it"), Lease)
    assert (lease.spec.holder_identity, lease.spec.lease_transitions) == ("second", 1)
    assert lease.metadata.labels == {"put": "there"}
    assert lease.spec.acquire_time


def test_a_lease_that_is_given_back_is_taken_at_once(
    client: Client, transport: Transport, namespace: str, closing: Closing
) -> None:
    first, second = Candidate(transport, namespace, "first"), Candidate(transport, namespace, "second")
    closing(second.leader.stop)
    first.leader.start()
    assert first.led.wait(60)
    second.leader.start()
    until(lambda: second.leader.holder == "first")
    began = time.monotonic()
    assert first.leader.stop()
    assert first.why == "released"
    assert second.led.wait(60)
    assert time.monotonic() - began < FAST.duration, "it waited until the lease ran out"


def test_a_lease_taken_by_hand_ends_the_leader(client: Client, transport: Transport, namespace: str, closing: Closing) -> None:
    only = Candidate(transport, namespace, "only")
    closing(only.leader.stop)
    only.leader.start()
    assert only.led.wait(60)
    client.merge(LEASES, Key(namespace, "it"), {"spec": {"holderIdentity": "admin"}})
    assert only.lost.wait(60)
    assert only.why == "admin holds the lease now"


def test_a_client_behind_the_gate_writes_only_while_it_leads(transport: Transport, namespace: str, closing: Closing) -> None:
    only = Candidate(transport, namespace, "only")
    closing(only.leader.stop)
    gated = Client(transport, gate=only.leader.check)
    with pytest.raises(NotLeading, match="held by nobody"):
        gated.create(CONFIG_MAPS, namespace, config_map("a"))
    only.leader.start()
    assert only.led.wait(60)
    gated.create(CONFIG_MAPS, namespace, config_map("a"))
    assert only.leader.stop()
    with pytest.raises(NotLeading):
        gated.delete(CONFIG_MAPS, Key(namespace, "a"))
