"""What `status` adds up from several nodes of one dataset."""

from __future__ import annotations

from typing import Any

from forebay.cli.machine import members

GIB = 1 << 30


def report(name: str, me: str, listed: list[str], *, owns: bool = True, **more: Any) -> dict[str, Any]:
    """What `status.report_of` says of one node: only what the view reads."""
    came, down = more.get("came", {}), more.get("down", ())
    worker = {
        "tiers": [{"bytes_used": more.get("used", 0), "copies_bytes": more.get("copies", 0)}],
        "bytes_served": {"memory": 1, "disk": 2, "store": 3},
        "cluster": {
            "me": me, "node": name, "owns": owns, "epoch": more.get("epoch", "e1"), "bytes": came,
            "members": [
                {"id": m, "node": f"node-{m}", "data": f"10.0.0.{m}:1", "control": "", "weight": 1.0, "down": m in down}
                for m in listed
            ],
            "list_error": more.get("list_error", ""),
        },
    }  # fmt: skip
    return {
        "id": "ns/data", "label": f"ns/data@{name}", "node": name, "owns": owns, "listen": f"10.0.0.{me}:1" if owns else "",
        "phase": "up", "worker": worker, "walk": more.get("walk", {}),
    }  # fmt: skip


def test_amplification_is_store_bytes_over_bytes_cached_once() -> None:
    two = ["1", "2"]
    reports = [
        report("node-1", "1", two, used=10 * GIB, copies=4 * GIB, came={"store": 6 * GIB, "owner": 4 * GIB}),
        report("node-2", "2", two, used=4 * GIB, copies=0, came={"store": 5 * GIB, "cached": 1, "standin": 2, "owner": 4}),
        report("client-1", "c", two, owns=False, used=10 * GIB, came={"owner": 10 * GIB}),
    ]
    (view,) = members.clusters(reports)
    assert view["store_bytes"] == 11 * GIB
    assert view["distinct_bytes"] == 10 * GIB, "what the client tier has are copies"
    assert view["amplification"] == 1.1
    by_node = {r["node"]: r for r in view["members"]}
    assert by_node["node-2"]["peer"] == 7
    assert (by_node["node-1"]["owned"], by_node["node-1"]["copies"]) == (6 * GIB, 4 * GIB)
    assert (by_node["client-1"]["owned"], by_node["client-1"]["copies"]) == (0, 10 * GIB)
    assert (by_node["node-1"]["memory"], by_node["node-1"]["disk"]) == (1, 2)
    assert "amplification 1.10" in members.sentence(view)
    assert view["notes"] == []
    assert [row[0] for row in members.table_rows(view)] == ["node-1", "node-2", "client-1"]


def test_an_object_that_all_own_in_parts_is_not_counted_as_nothing() -> None:
    three = ["1", "2", "3"]
    reports = [report(f"node-{m}", m, three, used=GIB, copies=GIB, came={"store": GIB // 2}) for m in three]
    (view,) = members.clusters(reports)
    assert view["distinct_bytes"] == GIB
    assert view["amplification"] == 1.5


def test_what_disks_allocate_is_no_more_than_the_dataset() -> None:
    walk = {"walk_done": True, "bytes": 3000, "files": 1}
    (view,) = members.clusters([report("node-1", "1", ["1"], used=4096, came={"store": 3000}, walk=walk)])
    assert view["distinct_bytes"] == 3000
    assert view["amplification"] == 1.0
    walk["walk_done"] = False
    (view,) = members.clusters([report("node-1", "1", ["1"], used=4096, came={"store": 3000}, walk=walk)])
    assert view["distinct_bytes"] == 4096


def test_members_elsewhere_are_listed_and_no_amplification_is_claimed() -> None:
    (view,) = members.clusters([report("node-1", "1", ["1", "2"], down=("2",), used=5, came={"store": 5})])
    other = next(r for r in view["members"] if r["identity"] == "2")
    assert not other["here"]
    assert other["store"] is None
    assert view["amplification"] is None
    assert "without what node-2 would say" in members.sentence(view)
    assert members.table_rows(view)[1][2:5] == ("not reached by node-1", "-", "-")


def test_members_elsewhere_that_answer_count_like_those_here() -> None:
    here = report("node-1", "1", ["1", "2"], used=6, came={"store": 6})
    (other,) = members.not_asked([here])
    assert (other["id"], other["data"]) == ("2", "10.0.0.2:1")
    stats = report("far", "2", ["1", "2"], used=4, came={"store": 5})["worker"] | {"tree": {"walk_done": True, "bytes": 10}}
    far = members.told("ns/data", other, stats)
    assert members.not_asked([here, far]) == []
    (view,) = members.clusters([here, far])
    assert view["amplification"] == 1.1
    assert [(r["node"], r["here"]) for r in view["members"]] == [("node-1", True), ("far", False)]


def test_a_silent_worker_is_one_row() -> None:
    silent = report("node-2", "2", []) | {"worker": {}}
    (view,) = members.clusters([report("node-1", "1", ["1", "2"], used=1), silent])
    assert [r["node"] for r in view["members"]] == ["node-1", "node-2"]
    assert view["members"][1]["member"]
    assert view["members"][1]["state"] == "up"
    assert view["amplification"] is None
    assert members.not_asked([report("node-1", "1", ["1", "2"]), silent]) == []


def test_a_drained_node_is_no_member_and_no_trouble() -> None:
    drained = report("node-2", "2", ["1"], used=3, copies=3)
    drained["worker"]["cluster"]["owns"] = False
    (view,) = members.clusters([report("node-1", "1", ["1"], used=3, came={"store": 3}), drained])
    assert [(r["node"], r["state"]) for r in view["members"]] == [("node-1", "up"), ("node-2", "drained")]
    assert view["notes"] == []
    assert view["amplification"] == 1.0


def test_notes_name_what_is_wrong() -> None:
    reports = [report("node-1", "1", ["1"], epoch="a"), report("node-2", "2", ["1"], epoch="b", list_error="/m: broken")]
    (view,) = members.clusters(reports)
    said = "\n".join(view["notes"])
    assert "different member lists" in said
    assert "ns/data@node-2: /m: broken" in said
    assert "node-2 is up and no member" in said
    assert view["epochs"] == ["a", "b"]


def test_a_silent_worker_and_a_dataset_alone() -> None:
    silent = report("node-1", "1", []) | {"worker": {}, "phase": "dead"}
    alone = report("", "9", []) | {"id": "ns/alone"}
    (view,) = members.clusters([silent, alone])
    assert view["id"] == "ns/data"
    assert view["amplification"] is None
    assert "did not say" in members.sentence(view)
    assert members.table_rows(view) == [("node-1", "10.0.0.1:1", "dead", *["-"] * 6)]
