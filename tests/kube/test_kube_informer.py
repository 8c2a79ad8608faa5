"""A copy kept from a real API server: pages, selectors, restarts, compaction, and every fault of the proxy at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from random import Random

import msgspec
import pytest
from controlplane import ControlPlane
from controlplane_kit import Map, Watched, Writer, config_map, truth, until
from kubeproxy import Asked, CutAfter, Fault, KubeProxy, MuteAfter, Say, SayAfter, gone_line, status

from forebay.kube import reflector as r
from forebay.kube.client import Client
from forebay.kube.informer import Informer, Selection
from forebay.kube.objects import Bare, Key, ObjectMeta
from forebay.kube.resources import CONFIG_MAPS
from forebay.kube.store import Store, Undecodable
from forebay.kube.transport import Transport

Closing = Callable[[Callable[[], object]], None]


def fill(client: Client, namespace: str, count: int) -> None:
    for n in range(count):
        client.apply(CONFIG_MAPS, Key(namespace, f"m{n}"), config_map(f"m{n}", str(n)))


def pages(proxy: KubeProxy) -> list[Asked]:
    return [asked for asked in proxy.asked if not asked.watch]


def test_a_copy_in_pages_follows_every_change(client: Client, proxy: KubeProxy, namespace: str) -> None:
    fill(client, namespace, 10)
    with Watched(Transport(proxy.endpoint), namespace, page=3) as watched:
        assert watched.informer.wait_synced(60)
        assert watched.equals(client, namespace)
        in_the_list = len(pages(proxy))
        assert in_the_list >= 4  # and kube-root-ca.crt may be the eleventh
        client.apply(CONFIG_MAPS, Key(namespace, "m3"), config_map("m3", "new"))
        client.delete(CONFIG_MAPS, Key(namespace, "m4"))
        client.create(CONFIG_MAPS, namespace, config_map("m99", "x"))
        until(lambda: watched.equals(client, namespace))
        assert [thing.metadata.name for thing in watched.store.where("value", "new")] == ["m3"]
        watched.check()
        health = watched.informer.health()
        assert (health.alive, health.synced, health.problem, health.lists) == (True, True, "", 1)
        assert len(pages(proxy)) == in_the_list


def test_what_leaves_the_selection_leaves_the_copy(client: Client, transport: Transport, namespace: str) -> None:
    client.apply(CONFIG_MAPS, Key(namespace, "a"), config_map("a", labels={"tier": "ssd"}))
    client.apply(CONFIG_MAPS, Key(namespace, "b"), config_map("b", labels={"tier": "mem"}))
    with Watched(transport, namespace, labels="tier=ssd") as watched:
        assert watched.informer.wait_synced(60)
        assert [key.name for key in watched.store.all_keys()] == ["a"]
        client.merge(CONFIG_MAPS, Key(namespace, "a"), {"metadata": {"labels": {"tier": "hdd"}}})
        client.merge(CONFIG_MAPS, Key(namespace, "b"), {"metadata": {"labels": {"tier": "ssd"}}})
        until(lambda: [key.name for key in watched.store.all_keys()] == ["b"])
        watched.check()


def test_metadata_alone_is_asked_for_where_nothing_else_is_wanted(
    client: Client, proxy: KubeProxy, namespace: str, closing: Closing
) -> None:
    client.apply(CONFIG_MAPS, Key(namespace, "a"), config_map("a", "x" * 1000))
    store = Store[Bare]()
    informer = Informer(Transport(proxy.endpoint), CONFIG_MAPS, Bare, store, Selection(namespace, fields="metadata.name=a"))
    closing(informer.stop)
    informer.start()
    assert informer.wait_synced(60)
    assert "PartialObjectMetadataList" in proxy.asked[0].headers["accept"]
    client.merge(CONFIG_MAPS, Key(namespace, "a"), {"metadata": {"labels": {"x": "y"}}})
    until(lambda: (store.get(Key(namespace, "a")) or Bare(ObjectMeta())).metadata.labels == {"x": "y"})
    assert "as=PartialObjectMetadata;" in proxy.asked[1].headers["accept"]


class Numbers(msgspec.Struct, frozen=True):
    """ConfigMaps whose data are numbers: what people write into them is text."""

    metadata: ObjectMeta
    data: dict[str, int] = {}


def test_an_object_that_cannot_be_read_hides_no_other_and_heals(
    client: Client, transport: Transport, namespace: str, closing: Closing
) -> None:
    client.apply(CONFIG_MAPS, Key(namespace, "bad"), config_map("bad", "seven"))
    client.apply(CONFIG_MAPS, Key(namespace, "good"), config_map("good") | {"data": {}})
    store = Store[Numbers]()
    informer = Informer(transport, CONFIG_MAPS, Numbers, store, Selection(namespace))
    closing(informer.stop)
    informer.start()
    assert informer.wait_synced(60)
    assert store.get(Key(namespace, "good")) is not None
    with pytest.raises(Undecodable, match=r"bad: Expected `int`, got `str` - at `\$.data"):
        store.get(Key(namespace, "bad"))
    client.merge(CONFIG_MAPS, Key(namespace, "bad"), {"data": None})
    until(lambda: Key(namespace, "bad") not in store.broken())
    assert store.get(Key(namespace, "bad")) is not None


# --- the server's own faults ----------------------------------------------------------------------------------------


@pytest.mark.timeout(200)
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_an_api_server_that_is_restarted_loses_and_repeats_nothing(
    plane: ControlPlane, client: Client, transport: Transport, namespace: str, how: str
) -> None:
    fill(client, namespace, 20)
    with Watched(transport, namespace) as watched, Writer(client, namespace, seed=1) as writer:
        assert watched.informer.wait_synced(60)
        until(lambda: writer.writes > 50)
        plane.kill_api_server() if how == "kill" else plane.stop_api_server()
        plane.start_api_server()
        before = writer.writes
        until(lambda: writer.writes > before + 50, 90)
        writer.__exit__()
        until(lambda: watched.equals(client, namespace), 90, "the copy is the server's truth")
        watched.check()


def test_what_was_deleted_while_nobody_watched_is_found_when_history_is_gone(
    plane: ControlPlane, client: Client, proxy: KubeProxy, namespace: str
) -> None:
    """The next watch is held back; meanwhile objects go, the server restarts (its memory of changes is new) and etcd forgets.

    It is not refused: after three refusals the copy lists by itself, and a slow machine takes that long.
    """
    fill(client, namespace, 20)
    seen: list[int] = []
    go = threading.Event()

    def plan(asked: Asked) -> Fault | None:
        seen.append(1 if asked.watch else 2)
        assert go.wait(60)
        return None

    with Watched(Transport(proxy.endpoint), namespace) as watched:
        assert watched.informer.wait_synced(60)
        until(lambda: proxy.streams == 1)
        proxy.plan = plan
        proxy.cut_watches()
        until(lambda: seen, what="the watch is asked for again")
        for n in range(0, 20, 2):
            client.delete(CONFIG_MAPS, Key(namespace, f"m{n}"))
        plane.kill_api_server()
        plane.start_api_server()
        plane.compact()
        go.set()
        until(lambda: watched.equals(client, namespace), 60)
        watched.check()
        # The watch was refused as too old by the server itself, and a list followed. It may have been asked for twice, where the
        # server took more than the 30 s that a call waits; of three refusals a list would follow by itself.
        assert 1 <= seen.index(2) < 3, seen
        assert watched.informer.health().lists >= 2


@pytest.mark.timeout(200)
def test_a_continue_token_that_the_server_lets_expire(
    plane: ControlPlane, client: Client, proxy: KubeProxy, namespace: str
) -> None:
    """Between two pages the server is restarted (it answers pages from memory, too) and etcd forgets the list's version."""
    fill(client, namespace, 12)
    reached, go = threading.Event(), threading.Event()

    def plan(asked: Asked) -> Fault | None:
        if "continue" in asked.query and not reached.is_set():
            reached.set()
            assert go.wait(60)
        return None

    proxy.plan = plan
    with Watched(Transport(proxy.endpoint), namespace, page=3, longest_pause=0.3) as watched:
        assert reached.wait(60)
        client.apply(CONFIG_MAPS, Key(namespace, "m0"), config_map("m0", "changed"))
        client.delete(CONFIG_MAPS, Key(namespace, "m1"))
        plane.kill_api_server()
        plane.start_api_server()
        plane.compact()
        go.set()
        assert watched.informer.wait_synced(60)
        until(lambda: watched.equals(client, namespace))
        watched.check()
    first_pages = [asked for asked in pages(proxy) if "continue" not in asked.query]
    assert len(first_pages) == 2, "the token did not expire, so nothing was tried here"


def test_it_ends_while_the_server_says_nothing(proxy: KubeProxy, namespace: str) -> None:
    proxy.silence()
    began = time.monotonic()
    with Watched(Transport(proxy.endpoint), namespace):
        until(lambda: proxy.asked)
    assert time.monotonic() - began < r.SILENCE / 2, "it waited for the server"


# --- the proxy's ----------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches of a second or two, given up soon after."""
    for name, value in (("SHORTEST", 1.0), ("LONGEST", 2.0), ("GRACE", 0.5), ("SILENCE", 1.0)):
        monkeypatch.setattr(r, name, value)


def test_a_watch_that_falls_silent_is_given_up(client: Client, proxy: KubeProxy, namespace: str, short: None) -> None:
    proxy.plan = lambda asked: MuteAfter(1) if asked.watch and proxy.counts["MuteAfter"] == 0 else None
    with Watched(Transport(proxy.endpoint), namespace) as watched:
        assert watched.informer.wait_synced(60)
        until(lambda: proxy.streams == 1)
        fill(client, namespace, 5)
        until(lambda: watched.equals(client, namespace), 90)
        watched.check()
    assert proxy.counts["MuteAfter"] == 1


def test_everything_falls_silent_and_comes_back(client: Client, proxy: KubeProxy, namespace: str, short: None) -> None:
    with Watched(Transport(proxy.endpoint), namespace) as watched:
        assert watched.informer.wait_synced(60)
        until(lambda: proxy.streams == 1)
        proxy.silence()
        fill(client, namespace, 5)
        until(lambda: "no answer" in watched.informer.health().problem)  # of the watch, or of the next where that was at its end
        proxy.resume()
        until(lambda: watched.equals(client, namespace), 60)
        watched.check()


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_faults_ends_with_the_servers_truth(
    client: Client, proxy: KubeProxy, namespace: str, short: None, seed: int
) -> None:
    """Cuts within a line, silence, both forms of 410, 410 between pages, 429, 500, lost connections, while objects change."""
    random = Random(seed)
    calm = False
    fill(client, namespace, 25)

    def plan(asked: Asked) -> Fault | None:
        if calm or random.random() < 0.3:
            return None
        if asked.watch:
            lines = random.randrange(30)
            kinds: list[Fault] = [CutAfter(lines), CutAfter(0), SayAfter(lines, gone_line()), MuteAfter(lines)]
            kinds += [
                Say(410, body=status(410, "Expired")),
                Say(500, body=status(500, "InternalError")),
                Say(429, {"Retry-After": "1"}),
            ]
            kinds += [SayAfter(lines, json.dumps({"type": "ERROR", "object": status(500, "InternalError")}).encode() + b"\n")]
            kinds += [SayAfter(lines, b'{"type":"MODIF\n'), Say(200)]
            return random.choice(kinds)
        if random.random() < 0.5:
            return None
        return random.choice(
            [Say(410, body=status(410, "Expired")), Say(500), Say(429, {"Retry-After": "0"}), Say(200, body=b"{")]
        )

    proxy.plan = plan
    with (
        Watched(Transport(proxy.endpoint), namespace, page=7, seed=seed, longest_pause=0.3) as watched,
        Writer(client, namespace, seed) as writer,
    ):
        until(lambda: sum(proxy.counts.values()) > 25 and len(proxy.counts) >= 3 and writer.writes > 50, 90, lambda: proxy.counts)
        writer.__exit__()
        calm = True
        until(lambda: watched.equals(client, namespace), 90, "the copy is the server's truth")
        watched.check()
    assert truth(client, namespace)


def test_thirty_thousand_bytes_a_line_and_pieces_of_any_size(client: Client, transport: Transport, namespace: str) -> None:
    with Watched(transport, namespace) as watched:
        assert watched.informer.wait_synced(60)
        for n in range(20):
            client.apply(CONFIG_MAPS, Key(namespace, f"big{n}"), config_map(f"big{n}", "ü" * 15_000 * (1 + n % 3)))
        until(lambda: watched.equals(client, namespace))
        watched.check()
        big = watched.store.get(Key(namespace, "big2"))
        assert isinstance(big, Map)
        assert len(big.data["value"]) == 45_000
