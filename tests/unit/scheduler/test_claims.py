"""Claims on devices without a server: selectors, pools, the search, the book; the search beside trying everything."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from filterlab import cluster, node, pod, where

from forebay.api.kubernetes.resource import DeviceClass, ResourceClaim, ResourceSlice, SliceDevice
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.arrays.transaction import Transaction
from forebay.scheduler.claims import selectors
from forebay.scheduler.claims.asks import NotDone, Wanted, read
from forebay.scheduler.claims.book import ClaimBook
from forebay.scheduler.claims.pools import Device, DeviceId, Pools
from forebay.scheduler.claims.search import Given, Offer, search
from forebay.scheduler.claims.selectors import SelectorError, compiled
from forebay.scheduler.claims.semver import Version
from forebay.scheduler.lack import Lack
from forebay.scheduler.planner import Planner
from forebay.scheduler.policies import Setting, make

D = "gpu.example.com"
CARD: dict[str, Any] = {
    "name": "card-0",
    "attributes": {
        "model": {"string": "a100"},
        "index": {"int": 3},
        "healthy": {"bool": True},
        "firmware": {"version": "1.10.0"},
        "net.example.com/rack": {"string": "r7"},
    },
    "capacity": {"memory": {"value": "80Gi"}},
}


def convert(value: Any, type_: Any) -> Any:
    return msgspec.convert(value, type_)


SELECTED = [
    ("device.driver == 'gpu.example.com'", True),
    ("device.attributes['gpu.example.com'].model == 'a100'", True),
    ("device.attributes['gpu.example.com'].model == 'h100'", False),
    ("device.attributes['net.example.com'].rack.startsWith('r')", True),
    ("device.attributes['gpu.example.com'].index in [1, 3] && device.attributes['gpu.example.com'].healthy", True),
    ("device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('40G'))", True),
    ("device.capacity['gpu.example.com'].memory.compareTo(quantity('80Gi')) == 0", True),
    ("device.capacity['gpu.example.com'].memory == quantity('81920Mi')", True),
    ("device.attributes['gpu.example.com'].firmware.isLessThan(semver('1.9.0'))", False),
    ("device.attributes['gpu.example.com'].firmware.minor() == 10", True),
    ("has(device.attributes['other.example.com'].model)", False),
    ("'other.example.com' in device.attributes || device.allowMultipleAllocations", False),
    ("device.attributes['gpu.example.com'].model.upperAscii().matches('^A')", True),
    ("['a100', 'h100'].exists(one, one == device.attributes['gpu.example.com'].model)", True),
]


@pytest.mark.parametrize(("expression", "meant"), SELECTED)
def test_selectors(expression: str, meant: bool) -> None:
    assert compiled(expression).matches(D, convert(CARD, SliceDevice)) is meant


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("device.attributes['gpu.example.com'].nosuch == 'a'", "no such member in mapping: 'nosuch'"),
        ("device.attributes['gpu.example.com'].model == 3", "no matching overload"),
        ("device.attributes['gpu.example.com'].index", "neither true nor false"),
        ("device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('many'))", "no Kubernetes quantity"),
        ("device.driver.nosuch()", "nosuch"),
    ],
)
def test_a_selector_that_fails_says_on_what(expression: str, sentence: str) -> None:
    with pytest.raises(SelectorError, match="device card-0") as wrong:
        compiled(expression).matches(D, convert(CARD, SliceDevice))
    assert sentence in str(wrong.value)


def test_what_is_no_expression_is_refused_and_so_are_all_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SelectorError, match="is not understood here"):
        compiled("device.driver ==")
    monkeypatch.setattr(selectors.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(SelectorError, match="pip install"):
        compiled("device.driver == 'one that nobody has compiled yet'")


def test_devices_that_differ_in_what_a_selector_does_not_name_are_asked_once() -> None:
    selector = selectors.Selector("device.attributes['gpu.example.com'].model == 'a100'")
    for n in range(50):
        attributes = {"model": {"string": "a100"}, "uuid": {"string": f"GPU-{n}"}}
        assert selector.matches(D, convert({"name": f"c{n}", "attributes": attributes}, SliceDevice))
    assert len(selector._known) == 1


def test_versions_are_ordered_as_semver_says() -> None:
    order = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "1.2.0",
        "1.10.0",
    ]
    read_ = [Version.parse(one) for one in order]
    assert sorted(random.Random(1).sample(read_, len(read_))) == read_
    assert Version.parse("1.0.0+build.7") == Version.parse("1.0.0")
    for wrong in ("1.2", "v1.2.3", "01.2.3", "1.2.3-01"):
        with pytest.raises(ValueError, match="no semantic version"):
            Version.parse(wrong)


# --- pools ------------------------------------------------------------------------------------------------------------


def slice_(
    name: str, devices: list[dict[str, Any]], pool: str = "p", generation: int = 1, count: int = 1, **spec: Any
) -> ResourceSlice:
    where_ = {} if {"allNodes", "nodeSelector", "perDeviceNodeSelection"} & spec.keys() else {"nodeName": spec.pop("on", "n")}
    about = {"name": pool, "generation": generation, "resourceSliceCount": count}
    return convert(
        {"metadata": {"name": name}, "spec": {"driver": D, "pool": about, "devices": devices, **where_, **spec}}, ResourceSlice
    )


def test_of_a_pool_the_newest_generation_counts_and_only_when_it_is_whole() -> None:
    pools = Pools()
    assert pools.put(slice_("old", [{"name": "a"}, {"name": "b"}])) == {"n"}
    (pool,) = pools.on("n")
    assert (list(pool.devices), pool.missing) == (["a", "b"], 0)
    pools.put(slice_("new-0", [{"name": "a"}], generation=2, count=2))
    (pool,) = pools.on("n")
    assert (list(pool.devices), pool.missing) == (["a"], 1)
    pools.put(slice_("new-1", [{"name": "c"}], generation=2, count=2, on="m"))
    assert [list(one.devices) for one in (*pools.on("n"), *pools.on("m"))] == [["a", "c"], ["a", "c"]]
    assert pools.remove("new-0") == {"n", "m"}
    assert not pools.on("n")
    pools.remove("new-1")
    pools.remove("old")
    assert not pools.pools
    assert not pools.remove("old")


def test_a_slice_that_moves_to_another_pool_leaves_the_first() -> None:
    pools = Pools()
    pools.put(slice_("one", [{"name": "a"}], on="n"))
    assert pools.put(slice_("one", [{"name": "a"}], pool="q", on="m")) == {"n", "m"}
    assert not pools.on("n")
    assert [pool.id.pool for pool in pools.on("m")] == ["q"]


def test_a_broken_pool_gives_nothing_and_says_why() -> None:
    pools = Pools()
    pools.put(slice_("one", [{"name": "a"}, {"name": "a"}]))
    assert pools.on("n")[0].wrong == "two devices are called a"
    consumes = [{"counterSet": "gpu", "counters": {"slices": {"value": "1"}}}]
    pools.put(slice_("one", [{"name": "a", "consumesCounters": consumes}]))
    assert "consumes counter gpu/slices, which is not published" in pools.on("n")[0].wrong


# --- the search beside trying everything ------------------------------------------------------------------------------

CLASSES = {
    "any": convert({"metadata": {"name": "any"}, "spec": {}}, DeviceClass),
    "red": convert(
        {
            "metadata": {"name": "red"},
            "spec": {"selectors": [{"cel": {"expression": f"device.attributes['{D}'].colour == 'red'"}}]},
        },
        DeviceClass,
    ),
}


def claim(
    name: str, requests: list[dict[str, Any]], constraints: list[dict[str, Any]] | None = None, **meta: Any
) -> ResourceClaim:
    spec = {"devices": {"requests": requests, "constraints": constraints or []}}
    return convert({"metadata": {"name": name, "namespace": "default", "uid": name, **meta}, "spec": spec}, ResourceClaim)


def wanted(requests: list[dict[str, Any]], constraints: list[dict[str, Any]] | None = None) -> Wanted:
    return read(claim("c", requests, constraints), CLASSES)


def random_device(rng: random.Random, name: str) -> dict[str, Any]:
    attributes = {"colour": {"string": rng.choice(["red", "blue"])}}
    if rng.random() < 0.8:
        attributes["side"] = {"int": rng.randrange(2)}
    consumes = [{"counterSet": "s", "counters": {"c": {"value": str(rng.choice([1, 2]))}}}] if rng.random() < 0.4 else []
    return {"name": name, "attributes": attributes, "consumesCounters": consumes}


def random_wanted(rng: random.Random) -> Wanted:
    requests: list[dict[str, Any]] = []
    for n in range(rng.randint(1, 2)):
        one = {"deviceClassName": rng.choice(["any", "red"])}
        one |= {"allocationMode": "All"} if rng.random() < 0.15 else {"count": rng.randint(1, 2)}  # type: ignore[dict-item]
        if rng.random() < 0.2:
            other = {"name": "other", "deviceClassName": "any", "count": 1}
            requests.append({"name": f"r{n}", "firstAvailable": [{"name": "one", **one}, other]})
        else:
            requests.append({"name": f"r{n}", "exactly": one})
    constraints = []
    if rng.random() < 0.5:
        constraints.append(
            {rng.choice(["matchAttribute", "distinctAttribute"]): f"{D}/side", "requests": rng.choice([[], ["r0"]])}
        )
    return wanted(requests, constraints)


def valid(
    claims: list[Wanted], given: tuple[Given, ...], devices: dict[DeviceId, Device], taken: set[DeviceId], counter: int
) -> bool:
    """What the API says an allocation must be, said once more and otherwise."""
    used = [device.id for one in given for _, device in one.results]
    if len(set(used)) != len(used) or set(used) & taken or not set(used) <= devices.keys():
        return False
    consumed = sum((amount for id in {*used, *taken} for _, amount in devices[id].consumes), Fraction(0))
    if consumed > counter and any(devices[id].consumes for id in used):
        return False
    for want, one in zip(claims, given, strict=True):
        for asked in want.asked:
            mine = [(name, device) for name, device in one.results if name.split("/")[0] == asked.name]
            choice = next((each for each in asked.choices if mine and each.name == mine[0][0]), None)
            if choice is None:
                return False
            meant = [d for d in devices.values() if all(s.matches(D, d.published) for s in choice.selectors)]
            if len(mine) != (choice.count or len(meant)) or any(d not in meant for _, d in mine):
                return False
        for constraint in want.constraints:
            told = [
                d.attribute(constraint.attribute)
                for name, d in one.results
                if not constraint.requests or name.split("/")[0] in constraint.requests
            ]
            if None in told or (len(set(told)) != len(told) if constraint.unlike else len(set(told)) > 1):
                return False
    return True


def possible(claims: list[Wanted], devices: dict[DeviceId, Device], taken: set[DeviceId], counter: int) -> bool:
    """Tries every set of devices for every choice of every request."""
    free = [d for id, d in devices.items() if id not in taken]
    slots = [(at, asked) for at, want in enumerate(claims) for asked in want.asked]

    def ways(asked: Any) -> list[list[tuple[str, Device]]]:
        found = []
        for choice in asked.choices:
            meant = [d for d in devices.values() if all(s.matches(D, d.published) for s in choice.selectors)]
            sets = itertools.combinations([d for d in free if d in meant], choice.count) if choice.count else [tuple(meant)]
            found += [[(choice.name, d) for d in chosen] for chosen in sets if chosen]
        return found

    for way in itertools.product(*(ways(asked) for _, asked in slots)):
        given = tuple(
            Given(tuple(one for (owner, _), chosen in zip(slots, way, strict=True) if owner == at for one in chosen))
            for at in range(len(claims))
        )
        if valid(claims, given, devices, taken, counter):
            return True
    return False


@pytest.mark.parametrize("seed", range(6))
def test_the_search_finds_devices_exactly_where_there_are_some(seed: int) -> None:
    rng = random.Random(seed)
    found = 0
    for _ in range(60):
        pools, counter = Pools(), rng.randint(0, 4)
        listed = [random_device(rng, f"d{n}") for n in range(rng.randint(1, 5))]
        pools.put(slice_("devices", listed, count=2))
        pools.put(slice_("counters", [], count=2, sharedCounters=[{"name": "s", "counters": {"c": {"value": str(counter)}}}]))
        (pool,) = pools.on("n")
        book = ClaimBook()
        book.pools = pools
        devices = {device.id: device for device in pool.devices.values()}
        taken = {id for id in devices if rng.random() < 0.2}
        book.set_claim(allocated(claim("held", []), tuple(sorted(taken)), 1))
        claims = [random_wanted(rng) for _ in range(rng.randint(1, 2))]
        result = search(claims, Offer([pool], lambda device: True, book.taken, book.left))
        if isinstance(result, Lack):
            assert not possible(claims, devices, taken, counter), (claims, result)
        else:
            found += 1
            assert valid(claims, result, devices, taken, counter), (claims, result)
    assert found > 5


def test_what_is_not_done_is_a_sentence() -> None:
    for request, sentence in [
        ({"name": "r", "exactly": {"deviceClassName": "any", "adminAccess": True}}, "admin access"),
        (
            {"name": "r", "exactly": {"deviceClassName": "any", "capacity": {"requests": {"memory": "1Gi"}}}},
            "a part of a device's capacity",
        ),
        ({"name": "r", "exactly": {"deviceClassName": "none"}}, "DeviceClass none"),
        ({"name": "r"}, "of a kind that is not known"),
        ({"name": "r", "exactly": {"deviceClassName": "any", "allocationMode": "Some"}}, "allocationMode Some"),
        ({"name": "r", "exactly": {"deviceClassName": "any", "count": 33}}, "at most 32"),
        ({"name": "r", "exactly": {"deviceClassName": "any", "selectors": [{}]}}, "not CEL"),
    ]:
        with pytest.raises(NotDone, match=sentence) as refused:
            wanted([request])
        assert refused.value.remedy
    with pytest.raises(NotDone, match="constraint of a kind"):
        wanted([{"name": "r", "exactly": {"deviceClassName": "any"}}], [{}])


# --- the book ---------------------------------------------------------------------------------------------------------


def lab(nodes: int, cards: int) -> Cluster:
    made = cluster([node(f"n{n}") for n in range(nodes)])
    for one in CLASSES.values():
        made.claims.set_class(one)
    for n in range(nodes):
        made.claims.set_slice(
            slice_(
                f"s{n}",
                [{"name": f"d{i}", "attributes": {"colour": {"string": "red"}}} for i in range(cards)],
                pool=f"n{n}",
                on=f"n{n}",
            )
        )
    made.noted()
    return made


def wants(made: Cluster, name: str, count: int = 1) -> Any:
    made.claims.set_claim(claim(name, [{"name": "r", "exactly": {"deviceClassName": "red", "count": count}}]))
    return pod(resourceClaims=[{"name": "c", "resourceClaimName": name}])


def allocated(one: ResourceClaim, devices: tuple[DeviceId, ...], version: int, users: tuple[str, ...] = ("u",)) -> ResourceClaim:
    results = [{"request": "r", "driver": d.driver, "pool": d.pool, "device": d.device} for d in devices]
    status = {
        "allocation": {"devices": {"results": results}},
        "reservedFor": [{"resource": "pods", "name": u, "uid": u} for u in users],
    }
    plain = msgspec.to_builtins(one) | {"status": status if devices else {}}
    plain["metadata"] |= {"resourceVersion": str(version)}
    return convert(plain, ResourceClaim)


def test_a_transaction_that_is_undone_leaves_the_book_as_it_was() -> None:
    made = lab(2, 2)
    planner = Planner(made, make("bestfit", Setting()))
    for n in range(4):
        request = made.request(wants(made, f"c{n}"))
        with Transaction(made) as transaction:
            choice = planner.choose(request)
            assert choice is not None
            transaction.place(choice.row, request, choice.cards, choice.parts)
            assert len(made.claims.taken) == n + 1
            if n % 2:
                transaction.undo()
                assert len(made.claims.taken) == n
                transaction.place(choice.row, request, choice.cards, choice.parts)
            transaction.commit()
    assert planner.choose(made.request(wants(made, "late"))) is None
    assert set(made.claims.taken.values()) == {1}


def test_a_stale_copy_and_an_answer_to_a_claim_that_is_gone_free_nothing_and_book_nothing() -> None:
    book = ClaimBook()
    one, devices = claim("c", [], resourceVersion="5"), (DeviceId(D, "p", "a"),)
    book.set_claim(one)
    book.set_claim(allocated(one, devices, 7), answered=True)
    assert set(book.taken) == set(devices)
    book.set_claim(allocated(one, (), 6))
    assert set(book.taken) == set(devices)
    book.remove_claim("default", "c")
    assert not book.taken
    book.set_claim(allocated(one, devices, 7), answered=True)
    assert not book.taken


def test_what_an_attempt_is_writing_is_free_for_nobody_until_its_outcome() -> None:
    made = lab(1, 1)
    request = made.request(wants(made, "c0"))
    made.place(0, request, ())
    made.claims.take_off(7, made.claims.chosen.keys())
    made.release(0, request, ())  # the pod is gone while its claim is being written
    assert where(made, wants(made, "c1")) == ""
    made.claims.landed(7)
    assert where(made, wants(made, "c2")) == "n0"


@pytest.mark.parametrize("seed", range(4))
def test_after_random_days_the_book_is_what_a_new_one_would_be(seed: int) -> None:
    rng = random.Random(seed)
    made = lab(3, 2)
    planner = Planner(made, make("bestfit", Setting()))
    flying: dict[int, tuple[Any, int, str]] = {}
    running: dict[str, tuple[Any, int]] = {}
    version = 100
    for step in range(300):
        version += 1
        action = rng.random()
        if action < 0.45:
            name = f"c{step}"
            request = made.request(wants(made, name, rng.randint(1, 2)))
            choice = planner.choose(request)
            if choice is not None:
                made.place(choice.row, request, choice.cards, choice.parts)
                (key,) = [key for key in made.claims.chosen if key.name == name]
                made.claims.take_off(step, [key])
                flying[step] = (request, choice.row, name)
        elif action < 0.75 and flying:
            number = rng.choice(sorted(flying))
            request, row, name = flying.pop(number)
            (key,) = [key for key in made.claims.chosen if key.name == name]
            if rng.random() < 0.7:
                made.claims.set_claim(allocated(made.claims.claims[key], made.claims.chosen[key].devices, version), answered=True)
                running[name] = (request, row)
            else:
                made.release(row, request, ())
            made.claims.landed(number)
        elif action < 0.95 and running:
            name = rng.choice(sorted(running))
            request, row = running.pop(name)
            made.release(row, request, ())
            if rng.random() < 0.5:
                made.claims.remove_claim("default", name)
            else:
                (key,) = [key for key in made.claims.claims if key.name == name]
                made.claims.set_claim(allocated(made.claims.claims[key], (), version))
        else:
            n = rng.randrange(3)
            attributes = {"colour": {"string": "red"}}
            listed = [{"name": f"d{i}", "attributes": attributes} for i in range(rng.randint(1, 3))]
            made.claims.set_slice(slice_(f"s{n}", listed, pool=f"n{n}", generation=version, on=f"n{n}"))
        holders = [
            d for one in made.claims.claims.values() if one.status.allocation for d in one.status.allocation.devices.results
        ]
        sure = [DeviceId(d.driver, d.pool, d.device) for d in holders]
        chosen = [d for one in made.claims.chosen.values() for d in one.devices]
        assert len(set(sure + chosen)) == len(sure + chosen), "one device, two claims"
        assert set(made.claims.taken) == set(sure) | set(chosen)
        fresh = ClaimBook()
        for one in made.claims.claims.values():
            fresh.set_claim(one)
        assert set(fresh.taken) == set(sure)
    assert running or flying
