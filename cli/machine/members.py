"""What several nodes of one dataset say together: who owns how much, what came from where, what the store sent twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from forebay.cli.output import size

PEER = ("owner", "cached", "standin")
"""What a node counts of bytes that came from other members."""


def members_known(stats: dict[str, Any]) -> set[str]:
    """Names of the nodes in the member list, as one worker has it."""
    return {m["node"] for m in (stats.get("cluster") or {}).get("members") or []}


def clusters(reports: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One view for each dataset that has several nodes, from the reports of those that were asked (`status.report_of`)."""
    by_id: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        if report["node"]:
            by_id.setdefault(report["id"], []).append(report)
    return [_view(dataset, found) for dataset, found in by_id.items()]


def not_asked(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Members, as their list has them, of which none of these reports of one dataset is."""
    listed = _listed(reports)
    asked = {_identity(r, listed) for r in reports}
    return [m for identity, m in listed.items() if identity not in asked]


def told(dataset: str, member: dict[str, Any], stats: dict[str, Any]) -> dict[str, Any]:
    """The report of a member elsewhere, from what its worker said."""
    cluster = stats.get("cluster") or {}
    node = cluster.get("node") or member["node"] or member["id"]
    return {
        "id": dataset, "label": f"{dataset}@{node}", "node": node, "owns": cluster.get("owns", True), "listen": member["data"],
        "phase": "up", "worker": stats, "walk": stats.get("tree") or {}, "here": False,
    }  # fmt: skip


def _listed(reports: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Members by identity, as the nodes have them in their lists."""
    return {m["id"]: m for r in reports for m in (r["worker"].get("cluster") or {}).get("members") or []}


def _identity(report: dict[str, Any], listed: dict[str, dict[str, Any]]) -> str:
    """Of a node; of one whose worker is silent what the others know, or else its name."""
    if me := (report["worker"].get("cluster") or {}).get("me"):
        return str(me)
    return next((i for i, m in listed.items() if report["listen"] and m["data"] == report["listen"]), report["node"])


def _view(dataset: str, reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    listed = _listed(reports)
    known = {_identity(r, listed): _asked(r, r["worker"].get("cluster") or {}) for r in reports}
    for identity, m in listed.items():
        row = known.setdefault(identity, _elsewhere(m))
        row["weight"], row["member"] = m["weight"], True
    for report in reports:
        for m in (report["worker"].get("cluster") or {}).get("members") or []:
            if m["down"]:
                known[m["id"]]["unreached_by"].append(report["node"])
    rows = sorted(known.values(), key=lambda r: (not r["owns"], not r["here"]))
    epochs = sorted({e for r in reports if (e := (r["worker"].get("cluster") or {}).get("epoch"))})
    asked = [r for r in rows if r["asked"]]
    store = _sum(r["store"] for r in asked)
    distinct = _distinct(asked, _whole(reports))
    complete = all(r["asked"] for r in rows)
    return {
        "id": dataset,
        "epochs": epochs,
        "members": rows,
        "store_bytes": store,
        "distinct_bytes": distinct,
        "amplification": round(store / distinct, 3) if store is not None and distinct and complete else None,
        "notes": _notes(reports, rows, epochs),
    }


def _asked(report: dict[str, Any], cluster: dict[str, Any]) -> dict[str, Any]:
    """A node that was asked."""
    stats, came = report["worker"], cluster.get("bytes") or {}
    tiers = stats.get("tiers") or []
    used = sum(t["bytes_used"] for t in tiers) if stats else None
    copies = _copies(stats, used, owns=report["owns"])
    served = stats.get("bytes_served") or {}
    drained = report["owns"] and report["phase"] == "up" and cluster.get("owns") is False
    return {
        "identity": cluster.get("me"),
        "node": report["node"],
        "address": report["listen"],
        "owns": report["owns"],
        "weight": None,
        "here": report.get("here", True),
        "asked": True,
        "member": False,
        "state": "drained" if drained else report["phase"],
        "unreached_by": [],
        "owned": None if used is None or copies is None else used - copies,
        "copies": copies,
        "memory": served.get("memory", 0) if stats else None,
        "disk": served.get("disk", 0) if stats else None,
        "peer": sum(came.get(name, 0) for name in PEER) if cluster else None,
        "store": came.get("store", 0) if cluster else None,
    }


def _copies(stats: dict[str, Any], used: int | None, *, owns: bool) -> int | None:
    """Bytes of a node that belong to others: all of a client tier's."""
    if used is None or not owns:
        return used
    found = [t.get("copies_bytes") for t in stats.get("tiers") or []]
    return None if None in found else sum(found)


def _elsewhere(m: dict[str, Any]) -> dict[str, Any]:
    """A member of which only the list is known here."""
    numbers = dict.fromkeys(("owned", "copies", "memory", "disk", "peer", "store"))
    return {
        "identity": m["id"], "node": m["node"], "address": m["data"], "owns": True, "weight": m["weight"], "here": False,
        "asked": False, "member": True, "state": "listed", "unreached_by": [], **numbers,
    }  # fmt: skip


def _sum(values: Iterable[int | None]) -> int | None:
    """None when one of them is unknown."""
    found = list(values)
    known = [v for v in found if v is not None]
    return sum(known) if len(known) == len(found) else None


def _whole(reports: Sequence[dict[str, Any]]) -> int | None:
    """Bytes of the whole dataset, None while no node knows all of the tree."""
    return max((r["walk"]["bytes"] for r in reports if r["walk"].get("walk_done")), default=None)


def _distinct(rows: Sequence[dict[str, Any]], whole: int | None) -> int | None:
    """Bytes of the dataset that are cached somewhere, each counted once.

    A lower bound: an object of which no node owns half counts as a copy on each, so the fullest node stands for it if that
    is more. Nodes count what the file system allocated, so the `whole` dataset is the most it can be.
    """
    owned = _sum(r["owned"] for r in rows)
    if owned is None:
        return None
    fullest: int = max(r["owned"] + r["copies"] for r in rows)
    return min(max(owned, fullest), whole if whole is not None else 1 << 62)


def _notes(reports: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], epochs: Sequence[str]) -> list[str]:
    notes = []
    if len(epochs) > 1:
        notes.append("the nodes have different member lists: while they do, some bytes are fetched twice")
    for report in reports:
        if error := (report["worker"].get("cluster") or {}).get("list_error"):
            notes.append(f"{report['label']}: {error}")
    for r in rows:
        if r["asked"] and r["owns"] and not r["member"] and r["state"] == "up":
            notes.append(f"{r['node']} is up and no member: its address {r['address']} is not in the member list")
    return notes


COLUMNS = ("node", "address", "state", "owned", "copies", "memory", "disk", "peers", "store")
RIGHT = COLUMNS[3:]


def table_rows(view: dict[str, Any]) -> list[tuple[str, ...]]:
    """A view as rows of `COLUMNS`."""
    return [
        (
            r["node"] or r["identity"] or "?",
            r["address"] or "client tier",
            f"not reached by {', '.join(r['unreached_by'])}" if r["unreached_by"] else r["state"],
            *("-" if r[key] is None else size(r[key]) for key in ("owned", "copies", "memory", "disk", "peer", "store")),
        )
        for r in view["members"]
    ]


def sentence(view: dict[str, Any]) -> str:
    """What the store sent, in words."""
    store, distinct, ratio = view["store_bytes"], view["distinct_bytes"], view["amplification"]
    if store is None or distinct is None:
        return "a node did not say what it has: no amplification is known"
    text = f"{size(store)} came from the store since the nodes started, {size(distinct)} are cached, each counted once"
    if ratio is not None:
        return f"{text}: amplification {ratio:.2f}"
    if silent := [r["node"] or r["address"] for r in view["members"] if not r["asked"]]:
        return f"{text}; without what {', '.join(silent)} would say"
    return text
