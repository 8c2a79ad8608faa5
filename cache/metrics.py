"""The worker's numbers for Prometheus: the report of `report.py` as text, and a small HTTP server on loopback.

Nothing is counted twice: a scrape reads the same observed values that `status` shows.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

REQUEST_DEADLINE = 5.0
CONNECTIONS = 8


def exposition(values: dict[str, Any]) -> str:
    """A report in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(values))
    return generate_latest(registry).decode()


class _Collector:
    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        v = self.values
        yield _gauge("forebay_uptime_seconds", "Seconds since the worker started", {(): v["uptime"]})
        yield _counter("forebay_opens", "Opens answered, by whether every byte was there", ["result"],
                       {("hit",): v["hits"], ("miss",): v["misses"]})  # fmt: skip
        yield _counter("forebay_served_bytes", "Bytes handed to readers, by where they lay", ["source"],
                       {(k,): n for k, n in v["bytes_served"].items()})  # fmt: skip
        yield _counter("forebay_evicted_objects", "Objects evicted", [], {(): v["evictions"].get("objects", 0)})
        yield _counter("forebay_evicted_bytes", "Bytes evicted", [], {(): v["evictions"].get("bytes", 0)})
        yield _counter("forebay_door_requests", "Requests of the door", ["request"], {(k,): n for k, n in v["requests"].items()})
        yield _gauge("forebay_door_connections", "Connections of the door", {(): v["door"]["connections"]})
        for name, n in v["load"].items():
            yield _gauge(f"forebay_machine_{name}", f"What the machine holds: {name}", {(): n})
        yield _counter(
            "forebay_scrubbed_bytes", "Bytes whose checksums the scrubber compared", [], {(): v["scrub"]["bytes_checked"]}
        )
        yield _counter("forebay_corrupt_blocks", "Blocks the scrubber found bad", [], {(): v["scrub"]["bad_blocks"]})
        yield from self._tiers(v["tiers"])
        yield from self._mounts(v["mounts"])
        tree = v["tree"]
        yield _gauge("forebay_tree_files", "Files in the index", {(): tree["files"]})
        yield _gauge("forebay_tree_directories", "Directories in the index", {(): tree["dirs"]})
        yield _gauge("forebay_walk_done", "1 when every known directory is listed", {(): int(tree["walk_done"])})

    def _tiers(self, tiers: list[dict[str, Any]]) -> Iterator[Metric]:
        names = ["tier", "medium"]
        for field, name, text in (
            ("bytes_used", "forebay_tier_used_bytes", "Bytes the tier's files occupy"),
            ("quota", "forebay_tier_quota_bytes", "Quota of the tier, 0 for none"),
            ("bytes_free", "forebay_tier_free_bytes", "Free bytes of the tier's file system"),
            ("objects", "forebay_tier_objects", "Objects with bytes in the tier"),
            ("copies_bytes", "forebay_tier_copies_bytes", "Bytes of objects that belong to other nodes: they go first"),
            ("copies_objects", "forebay_tier_copies", "Objects that belong to other nodes"),
        ):
            yield _gauge(name, text, {(str(t["path"]), str(t["medium"])): float(t[field] or 0) for t in tiers}, names)
        admits = {(str(t["path"]), str(t["medium"])): float(t["admission"] == "open") for t in tiers}
        yield _gauge("forebay_tier_admits", "1 while the tier takes new bytes", admits, names)

    def _mounts(self, mounts: list[dict[str, Any]] | str) -> Iterator[Metric]:
        if isinstance(mounts, str):
            return
        for field, name, text in (
            ("requests", "forebay_store_requests", "Reads of objects asked of the store"),
            ("bytes_fetched", "forebay_store_bytes", "Bytes that came from the store"),
            ("errors", "forebay_store_errors", "Reads the store failed"),
        ):
            yield _counter(name, text, ["mount"], {(x["path"],): x[field] for x in mounts})


def _gauge(name: str, text: str, samples: Mapping[Any, float], labels: list[str] | None = None) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels or [])
    for values, n in samples.items():
        family.add_metric(list(values), n)
    return family


def _counter(name: str, text: str, labels: list[str], samples: dict[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, n in samples.items():
        family.add_metric(list(values), n)
    return family


def loopback(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[::1]:PORT`. `ValueError` with a sentence unless the host is a loopback address."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    host = "127.0.0.1" if host == "localhost" else host
    try:
        ok, number = ipaddress.ip_address(host).is_loopback, int(port)
    except ValueError:
        raise ValueError(f"--metrics {address}: give HOST:PORT, for example 127.0.0.1:9180") from None
    if not ok or not 0 <= number < 65536:
        raise ValueError(f"--metrics {address}: only loopback addresses are served, for example 127.0.0.1:9180")
    return host, number


async def serve(
    address: tuple[str, int], text: Callable[[], str], task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer `GET /metrics` until cancelled; the port it listens on is the status."""
    bound = trio.Semaphore(CONNECTIONS)

    async def answer(stream: trio.SocketStream) -> None:
        async with stream, bound:
            with trio.move_on_after(REQUEST_DEADLINE):
                try:
                    head = b""
                    while b"\r\n\r\n" not in head and len(head) < 8192:
                        more = await stream.receive_some(4096)
                        if not more:
                            return
                        head += more
                    ok = head.startswith((b"GET /metrics ", b"GET / "))
                    body = text().encode() if ok else b"only /metrics is here\n"
                    status = b"200 OK" if ok else b"404 Not Found"
                    kind = CONTENT_TYPE_LATEST.encode() if ok else b"text/plain"
                    await stream.send_all(
                        b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                        % (status, kind, len(body), body)
                    )
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return  # the scraper left

    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await sock.bind(address)
    sock.listen(16)
    listener = trio.SocketListener(sock)
    async with trio.open_nursery() as nursery:
        task_status.started(int(sock.getsockname()[1]))
        await trio.serve_listeners(answer, [listener], handler_nursery=nursery)
