"""A port over real files with its client, and a world of three members."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clusterworld import World
from peerkit import FileProvider, key

from forebay.cache.members import route
from forebay.cache.peers.client import PeerClient
from forebay.cache.peers.port import Port


@pytest.fixture
def provider(tmp_path: Path) -> FileProvider:
    return FileProvider(tmp_path)


@pytest.fixture
def port(provider: FileProvider) -> Iterator[Port]:
    p = Port(provider, key(), provider.identity)
    p.start()
    yield p
    p.close(60)
    assert p.connections == 0


@pytest.fixture
def client() -> Iterator[PeerClient]:
    c = PeerClient(key())
    yield c
    c.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Members that answer are waited for: on a busy machine a thread may be late by a second, which is no silence here."""
    monkeypatch.setattr(route, "HEDGE_AFTER", 8.0)
    monkeypatch.setattr(route, "HEDGE_WAIT", 8.0)
    w = World(tmp_path)
    yield w
    w.close()
