"""The webhook's certificates on a real API server: its own, one for two of it, replaced while it serves."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from controllerlab import Cluster, key_of
from webhooklab import SECRET, Called, secret_data

from forebay.controller.admission import certificates
from forebay.controller.install import parts as install
from forebay.controller.install import rights
from forebay.kube import resources as r
from forebay.kube.objects import Key
from forebay.kube.resources import MUTATING_WEBHOOKS as MUTATING
from forebay.kube.resources import VALIDATING_WEBHOOKS as VALIDATING

pytestmark = pytest.mark.timeout(400)


def forget(cluster: Cluster) -> None:
    cluster.client.merge(r.SECRETS, SECRET, {"data": None})


def test_two_that_start_at_once_serve_one_certificate(start: Callable[[], Called], cluster: Cluster) -> None:
    forget(cluster)
    both = [start(), start()]
    for one in both:
        one.start()
    for one in both:
        one.ready()
    for one in both:
        one.webhook.keeper.look()
    held = secret_data(cluster)
    assert set(held) == {certificates.CA, certificates.CA_KEY, certificates.CERTIFICATE, certificates.KEY}
    for one in both:
        assert one.webhook.keeper.expiry() == certificates.expiry(held)
        one.call()  # each is trusted by what the configurations say
    written = one.webhook.client.statistics().writes
    one.webhook.keeper.look()
    assert one.webhook.client.statistics().writes == written, "nothing changed, and something was written"


def test_a_certificate_that_is_lost_or_ends_is_replaced_while_it_serves(called: Called, cluster: Cluster) -> None:
    first = secret_data(cluster)
    keeper = called.webhook.keeper
    later = certificates.expiry(first) - certificates.LEFT / 2
    keeper._now = lambda: later
    keeper.look()
    second = secret_data(cluster)
    assert second[certificates.CERTIFICATE] != first[certificates.CERTIFICATE]
    assert second[certificates.CA] == first[certificates.CA]
    keeper._now = lambda: later - certificates.LIFE / 2
    assert called.is_called()
    forget(cluster)
    keeper.look()
    third = secret_data(cluster)
    assert third[certificates.CA] != first[certificates.CA]
    for resource in (MUTATING, VALIDATING):
        found = cluster.client.get(resource, Key("", rights.WEBHOOK), dict[str, Any])
        assert {base64.b64decode(h["clientConfig"]["caBundle"]) for h in found["webhooks"]} == {third[certificates.CA]}
    forget(cluster)  # the next test's clock is today's


def test_applied_again_the_installation_keeps_certificates_and_trust(called: Called, cluster: Cluster) -> None:
    before = secret_data(cluster)
    for obj in install.parts(install.Install())["60-webhook.yaml"]:
        if obj["kind"] == "Secret":
            cluster.client.apply(r.SECRETS, key_of(obj), obj, manager="admin")
    called.call()
    assert secret_data(cluster) == before
    found = cluster.client.get(MUTATING, Key("", rights.WEBHOOK), dict[str, Any])
    assert all(hook["clientConfig"]["caBundle"] for hook in found["webhooks"])
