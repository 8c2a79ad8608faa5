"""All that can be put side by side, in the order of the table."""

from __future__ import annotations

from peers.alluxio_fuse import Alluxio
from peers.base import Peer
from peers.forebay import Forebay, Ordinary, Relayed
from peers.juicefs import JuiceFS
from peers.mountpoint_s3 import Mountpoint
from peers.rclone import Rclone
from peers.s3fs import S3fs

OURS: tuple[type[Forebay], ...] = (Forebay, Relayed, Ordinary)
PEERS: tuple[type[Peer], ...] = (S3fs, Rclone, JuiceFS, Mountpoint, Alluxio)
ALL: dict[str, type[Peer]] = {p.name: p for p in (*OURS, *PEERS)}
