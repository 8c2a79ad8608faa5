"""A port over real files with its client, and a world of three members."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clusterworld import World
from peerkit import FileProvider, key

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
    p.close()
    assert p.connections == 0


@pytest.fixture
def client() -> Iterator[PeerClient]:
    c = PeerClient(key())
    yield c
    c.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    w = World(tmp_path)
    yield w
    w.close()
