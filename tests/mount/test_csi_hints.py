"""What a node publishes of a dataset that its pods read: from a real mount's own cache, over a real kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from csilab import CsiLab, until

from forebay.fuse.csi.hints.collecting import Caches
from forebay.fuse.csi.hints.holding import held, total
from forebay.fuse.csi.known import Known
from forebay.fuse.csi.site import Layout, Site

pytestmark = [
    pytest.mark.mount,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="a CSI driver mounts: root and /dev/fuse"),
]
LONG = 180.0


class Node:
    """What the driver's own thread looks at: its records and folders. Whether a mount answers is asked of the kernel's table."""

    def __init__(self, lab: CsiLab) -> None:
        self.lab = lab
        layout = Layout(str(lab.base), str(lab.cache))
        self.caches = Caches(Known(layout.state), self, layout)  # type: ignore[arg-type]

    def holds(self, site: Site) -> bool:
        return site.mount in self.lab.mounts()

    def bytes(self) -> int:
        found = self.caches.look()[0]
        return total(held(found[0])) if found else -1

    def reads(self) -> tuple[int, int]:
        """Bytes that were here when they were read, and those that were not."""
        (one,) = self.caches.look()[0]
        return (one.reader.local, one.reader.missed) if one.reader is not None else (-1, -1)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CsiLab]:
    with CsiLab(tmp_path) as lab:
        yield lab


def test_a_node_knows_what_its_pods_have_read(lab: CsiLab) -> None:
    whole = sum(map(len, lab.files.values()))
    pod = lab.pod("one")
    node = Node(lab)  # the driver's records, as another process sees them
    until(lambda: node.bytes() == 0, LONG, node.caches.look)
    (one,) = node.caches.look()[0]
    assert (one.namespace, one.name, one.wanted, one.mounted) == ("default", "lab", True, True)
    assert held(one).role == "Client"

    def read() -> None:
        for name, data in lab.files.items():
            assert (pod / name).read_bytes() == data

    read()
    until(lambda: node.bytes() == whole, LONG, node.caches.look)
    until(lambda: node.reads() == (0, whole), LONG, node.reads)
    time.sleep(2.5)  # opens are told once a second, each file once
    read()
    until(lambda: node.reads() == (whole, whole), LONG, node.reads)

    lab.unpublish("one")
    lab.unstage()
    again = Node(lab).caches.look()[0]
    assert [(c.wanted, c.mounted) for c in again] == [(False, True)], "it stays until the dataset goes, and stays warm"
