"""Preferences on a live core: setting, data, gangs, and what `why` says of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from filterlab import cluster
from filterlab import node as labelled
from filterlab import pod as plain
from livekit import World, binds, core, node, pod
from test_nearness import DATA, NOW, nodes, said, sized
from test_preferences import HOST, SOFT, ZONE, wants

from forebay.api.kubernetes.core import Node
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.live.config import Configuration, ConfigurationError, Locality, read
from forebay.scheduler.live.nearness import Later, Nearness
from forebay.scheduler.live.questions.why import View, sentences, why


def named(name: str, weight: int = 10) -> dict[str, Any]:
    term = {"weight": weight, "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}}
    return {"affinity": {"nodeAffinity": {SOFT: [term]}}}


@pytest.mark.parametrize(("seconds", "where"), [(60.0, "b"), (0.0, "a")])
def test_the_setting_turns_them_on_and_off(seconds: float, where: str) -> None:
    made = core(preference_seconds=seconds)
    for name in ("a", "b"):
        made.apply("Node", None, node(name))
    made.apply("Pod", None, pod("p", **named("b")))
    assert binds(made.decide(1.0)) == {"p": where}


def test_settings_that_are_read_anew_count_at_once() -> None:
    made = core()
    for name in ("a", "b"):
        made.apply("Node", None, node(name))
    made.configure(Configuration(preference_seconds=0.0))
    made.apply("Pod", None, pod("p", **named("b")))
    assert binds(made.decide(1.0)) == {"p": "a"}


def test_a_setting_that_cannot_be_is_named() -> None:
    assert read("preferenceSeconds: 5", "x").preference_seconds == 5
    for value in ("-1", "10000000", ".nan"):
        with pytest.raises(ConfigurationError, match=r"preferenceSeconds .* cannot be; write 0 to"):
            read(f"preferenceSeconds: {value}", "x")


# --- beside data ------------------------------------------------------------------------------------------------------


def near(seconds: float = 60.0, wait: bool = False, **held: int) -> Nearness:
    """Nodes a, b in zone x and c, d in y, and GB of the dataset on them; a node that holds some has the dataset's label."""
    kinds = {"a": "x", "b": "x", "c": "y", "d": "y"}
    made = cluster(
        [
            labelled(name, {ZONE: zone, **({"fluid.io/s-team-lake": "true"} if name in held else {})})
            for name, zone in kinds.items()
        ]
    )
    found = Nearness(made)
    found.configure(Locality(wait=wait), seconds)
    for name, amount in held.items():
        found.set_node(name, said(amount), NOW)
    found.set_hints(DATA, sized(100), NOW)
    return found


def place(near: Nearness, count: int = 1, cpu: str = "1", **more: Any) -> list[str]:
    request = near.state.request(plain(requests={"cpu": cpu}, **more))  # type: ignore[attr-defined]
    return nodes(near.place(Gang("team/train", [Member(f"p{at}", request) for at in range(count)], count), DATA, 0.0, NOW))


def test_among_nodes_equally_far_what_is_preferred_decides() -> None:
    assert place(near(b=50, c=50)) == ["b"]
    assert place(near(b=50, c=50), **wants((1, ZONE, "y"))) == ["c"]


def test_data_outweighs_what_is_worth_less() -> None:
    """a lacks 100 GB of which c has all: 80 s at 10 Gb/s."""
    assert place(near(c=100), **wants((1, ZONE, "x"))) == ["c"]
    assert place(near(79.0, c=100), **wants((1, ZONE, "x"))) == ["c"]
    assert place(near(81.0, c=100), **wants((1, ZONE, "x"))) in (["a"], ["b"])
    assert place(near(c=30), **wants((1, ZONE, "x"))) in (["a"], ["b"])  # 30 GB are 24 s and the store's share


@pytest.mark.parametrize("terms", [((100, "fluid.io/s-team-lake", "true"),), ((100, HOST, "b"),)])
def test_terms_about_data_do_not_count_twice(terms: tuple[tuple[int, str, str], ...]) -> None:
    """b holds little and c more: a term for b's label, or its name, says nothing that its bytes do not say."""
    held = {"b": 40, "c": 60}
    found = near(b=40, c=60)
    relabelled = labelled("c", {ZONE: "y"})  # only b has the label: as if the one of c came late
    found.state.set_node(relabelled)  # type: ignore[attr-defined]
    assert place(found, **wants(*terms)) == ["c"]
    assert place(near(**held), **wants((100, HOST, "a"))) == ["a"]  # a name that is not about data counts


def test_zones_of_the_data_count_where_its_nodes_are_full() -> None:
    found = near(c=20)
    webhook = wants((100, "fluid.io/s-team-lake", "true"), (50, ZONE, "y"))
    assert place(found, cpu="8", **webhook) == ["c"]
    assert place(found, cpu="8", **webhook) == ["d"]


def test_where_nothing_is_known_of_the_data_its_label_steers() -> None:
    made = core()
    for name in ("a", "b"):
        labels = {"fluid.io/s-team-lake": "true"} if name == "b" else {}
        made.apply("Node", None, msgspec.structs.replace(node(name), metadata=labelled(name, labels).metadata))
    made.apply("Pod", None, pod("p", **wants((100, "fluid.io/s-team-lake", "true"))))
    assert binds(made.decide(1.0)) == {"p": "b"}


def test_preferences_have_no_say_in_whether_a_gang_waits() -> None:
    """b has the data and is free: a gang that prefers elsewhere does not wait for room on b, it goes."""
    found = near(1000.0, wait=True, b=100)
    assert place(found, **wants((1, ZONE, "y"))) in (["c"], ["d"])
    full = near(wait=True, b=100)
    assert place(full, cpu="8") == ["b"]
    request = full.state.request(plain(requests={"cpu": "8"}, **wants((1, ZONE, "y"))))  # type: ignore[attr-defined]
    assert isinstance(full.place(Gang("team/more", [Member("q", request)], 1), DATA, 0.0, NOW), Later)


def test_a_gang_spreads_to_what_it_prefers() -> None:
    assert place(near(b=20), 16, **wants((1, ZONE, "y"))) == ["c"] * 8 + ["d"] * 8
    assert place(near(b=100), 8) == ["b"] * 8


# --- why --------------------------------------------------------------------------------------------------------------


def site(*names: str) -> World:
    made = World({})
    for name in names:
        labels = {"disk": "ssd", ZONE: "x"} if name == "b" else {ZONE: "y"} if name == "c" else {}
        one: Node = msgspec.structs.replace(node(name), metadata=labelled(name, labels).metadata)
        made.core.apply("Node", None, one)
    return made


def ask(made: World, name: str) -> str:
    view = View(made.core, {f"{one.metadata.namespace}/{one.metadata.name}": one for one in made.pods.values()})
    return "\n".join(sentences(why(view, "n", name, made.now, 1_767_225_600.0)))


def test_why_says_what_a_pod_that_would_be_bound_meets() -> None:
    made = site("a", "b", "c")
    made.arrive(pod("p", **wants((100, "disk", "ssd"), (20, ZONE, "y"))))
    said = ask(made, "p")
    assert "it fits now, on b (1)" in said
    assert (
        "\n  preferred: p on b: disk=ssd (100) is met, topology.kubernetes.io/zone=y (20) is not; no node that fits meets more"
        in said
    )


def test_why_says_what_outweighed_it() -> None:
    made = site("a", "b", "c")
    made.core.configure(Configuration(policy="bestfit", preference_seconds=1.0))
    made.run("blocker", "a")
    made.arrive(pod("p", **wants((100, "disk", "ssd"))))
    said = ask(made, "p")
    assert "it fits now, on a (1)" in said  # the fuller node
    assert "p on a: disk=ssd (100) is not; b meets more, worth 1 s, and by policy bestfit " in said
    assert said.endswith("s worse\n  a pod, waiting for 0 s, number 1 by age of what waits")


def test_why_says_it_of_pods_that_run_and_nothing_of_those_without() -> None:
    made = site("a", "b", "c")
    made.arrive(pod("p", **wants((100, "disk", "ssd"))), pod("q"))
    assert made.decide()["p"] == "b"
    assert ask(made, "p").splitlines()[1] == "  preferred: p on b: disk=ssd (100) is met; no node that fits meets more"
    assert "preferred" not in ask(made, "q")
    before = made.core.books.cluster.free.tobytes()
    ask(made, "p")
    assert made.core.books.cluster.free.tobytes() == before  # what was thought away is back


def test_why_of_a_pod_whose_place_was_full() -> None:
    made = site("a", "b")
    made.run("blocker", "b")
    made.arrive(pod("p", cpu=4, **wants((100, "disk", "ssd"))))
    assert made.decide() == {"p": "a"}
    made.end("blocker")
    assert "b meets more, worth 60 s: when this was decided it was full, or others of its gang needed it" in ask(made, "p")
