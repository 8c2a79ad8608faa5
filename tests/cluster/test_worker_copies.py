"""Two real nodes: what the second keeps of the first's objects is counted apart, goes first, and follows the member list."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from servers import ports_for
from workerlab import Lab, eventually, file_mount

from forebay.api.spec import Cluster, Tier
from forebay.cache.disk.index import COPY, Index, Object, unpack_object
from forebay.cache.members import placement
from forebay.cache.members.membership import identity
from forebay.cache.members.roster import Member
from forebay.cache.peers.auth import make_secret

pytestmark = pytest.mark.cluster
FILES = 160
FIRST = 120
SIZE = 32 << 10
QUOTA = FILES * SIZE


def node(root: Path, source: Path, name: str, port: int) -> Lab:
    cluster = Cluster(f"file:{root}/members", f"{root}/secret", name, f"127.0.0.1:{port}")
    tier = Tier("SSD", str(root / name / "tier"), QUOTA, 0.95, 0.9)  # some twenty have to go
    return Lab(root / name, [file_mount(source)], [tier], cluster=cluster)


def held(lab: Lab) -> tuple[int, int, int]:
    """Objects, copies among them, and the copies' bytes, as `status` says."""
    (tier,) = lab.stats()["tiers"]  # type: ignore[misc]
    return tier["objects"], tier["copies_objects"], tier["copies_bytes"]


def rows(lab: Lab) -> dict[bytes, Object]:
    index = Index(lab.index_dir / "live", readonly=True)
    try:
        with index.env.begin() as txn:
            return {bytes(k): unpack_object(v) for k, v in txn.cursor(db=index.objects)}
    finally:
        index.close()


def test_copies_go_first_and_follow_the_members(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    # look-ahead goes on into the next directory, but not below it
    data = {f"{'z/1' if i >= FIRST else '0'}/{i:03}": os.urandom(SIZE) for i in range(FILES)}
    for name, raw in data.items():
        (source / name).parent.mkdir(exist_ok=True, parents=True)
        (source / name).write_bytes(raw)
    make_secret(str(tmp_path / "secret"))
    ports = ports_for(2)
    lists = [[{"data": f"127.0.0.1:{p}"} for p in ports], [{"data": f"127.0.0.1:{ports[1]}"}]]
    (tmp_path / "members").write_text(json.dumps(lists[0]))
    with node(tmp_path, source, "a", ports[0]) as a, node(tmp_path, source, "b", ports[1]) as b:
        a.start()
        b.start()
        both = [Member(identity(str(lab.index_dir))[0], "") for lab in (a, b)]
        for lab in (a, b):
            eventually(lambda lab=lab: len(lab.stats()["cluster"]["members"]) == 2)  # type: ignore[misc,index]
        names = list(data)
        for name in names[:FIRST]:
            assert b.read(f"/{name}") == data[name]
        eventually(lambda: held(b)[0] == FIRST)
        eventually(lambda: len(rows(b)) == FIRST)  # they are written a moment later
        found = rows(b)
        copies = {oid for oid in found if placement.owner(oid, 0, both) == both[0]}
        assert {oid for oid, o in found.items() if o.flags & COPY} == copies
        assert held(b) == (len(found), len(copies), len(copies) * SIZE)
        assert 0 < len(copies) < len(found)
        eventually(lambda: held(a)[:2] == (len(copies), 0))  # the owner has what it fetched for another, and it is no copy
        assert {o.ino for o in rows(a).values()} == {0}
        b.kill()
        b.start()
        assert held(b) == (len(found), len(copies), len(copies) * SIZE), "a restart forgot what are copies"

        for name in names[FIRST:]:  # more than the quota takes
            assert b.read(f"/{name}") == data[name]
        eventually(lambda: b.stats()["evictions"].get("objects", 0) > 0)  # type: ignore[attr-defined]
        eventually(lambda: set(found) - set(rows(b)))
        left = rows(b)
        gone = set(found) - set(left)
        assert gone, "nothing was evicted"
        assert gone <= copies, "an object that belongs here went while there were copies"

        for name in list(data)[:4]:
            assert a.read(f"/{name}") == data[name]
        eventually(lambda: any(o.ino for o in rows(a).values()))
        (tmp_path / "members").write_text(json.dumps(lists[1]))
        eventually(lambda: held(b)[1] == 0)
        eventually(lambda: held(a)[1] == held(a)[0] > 0)
        eventually(lambda: not any(o.flags & COPY for o in rows(b).values()))
