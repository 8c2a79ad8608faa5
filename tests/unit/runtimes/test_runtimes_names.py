"""Derived names: within their limits, valid, and never one for two datasets."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forebay.api.fluid import names as fluidnames
from forebay.api.names import is_dns_1035, is_object_name
from forebay.runtimes.forebay.names import Names, children

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
UID = "3f0c7f4e-6c1b-4f8e-9a57-0d6a4f1b2c3d"
NAME = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
NAMESPACE = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
PAIR = st.tuples(NAMESPACE, NAME)
LONG = "a" * 63
PLAIN = (("mount-0-secret-key", "value"),)

KINDS = ("workers", "service", "config", "secret", "claim")


def of(pair: tuple[str, str]) -> Names:
    return Names(*pair, UID)


@given(PAIR)
@example((LONG, LONG))
@example(("a", "a" * 45))
@example(("a", "a" * 46))
def test_names_are_valid_and_within_their_limits(pair: tuple[str, str]) -> None:
    names = of(pair)
    assert is_dns_1035(names.service)
    assert len(names.service) <= 63
    assert is_dns_1035(names.workers)
    assert len(names.workers) <= 52
    assert len(f"{names.workers}-0123456789") <= 63  # ordinal, and the hash of a revision
    for ref in children(names):
        assert is_object_name(ref.name), ref
    assert len(names.handle.encode()) <= 128
    for labels in (names.labels, names.selector):
        assert all(LABEL_VALUE.fullmatch(v) and len(v) <= 63 for v in labels.values()), labels
    for letter in "sf":
        key = fluidnames.node_label(letter, *pair, UID).removeprefix("fluid.io/")
        assert LABEL_VALUE.fullmatch(key)
        assert len(key) <= 63


@settings(deadline=None)  # the name of credentials takes 30 ms by design
@given(NAME, NAME)
@example("a" * 62 + "b", "a" * 62 + "c")
def test_two_datasets_of_a_namespace_share_no_name(a: str, b: str) -> None:
    for kind in KINDS:
        assert (getattr(of(("n", a)), kind) == getattr(of(("n", b)), kind)) == (a == b), kind
    assert (of(("n", a)).credentials(PLAIN) == of(("n", b)).credentials(PLAIN)) == (a == b)


def test_a_secret_is_of_one_dataset_and_of_what_it_holds() -> None:
    """It is made without a look at what is there: an earlier one of the same name must never be taken for it."""
    now, again = Names("n", "a", UID), Names("n", "a", UID[::-1])
    assert now.secret != again.secret
    assert len({now.credentials(PLAIN), again.credentials(PLAIN), now.credentials((("k", "other"),))}) == 3
    assert all(is_object_name(n) for n in (Names("n", LONG, UID).secret, Names("n", LONG, UID).credentials(PLAIN)))


@given(NAME)
@example("a" * 60)
@example("a" * 30 + "-" * 20 + "b")
def test_a_short_form_is_nobodys_own_name(a: str) -> None:
    """Whoever names a dataset as another's short form does not get its objects."""
    names = of(("n", a))
    for kind, head, tail in (("workers", "", "-worker"), ("service", "svc-", "-worker")):
        taken = getattr(names, kind).removeprefix(head).removesuffix(tail)
        if taken != a and is_dns_1035(taken):
            assert getattr(of(("n", taken)), kind) != getattr(names, kind)


@given(PAIR, PAIR)
@example(("a-b", "c"), ("a", "b-c"))
@example(("a-b", "c-d"), ("a-b-c", "d"))
@example((LONG, LONG), (LONG, "a" * 62 + "b"))
def test_two_datasets_share_no_volume_and_no_handle(a: tuple[str, str], b: tuple[str, str]) -> None:
    assert (of(a).volume == of(b).volume) == (a == b)
    assert (of(a).handle == of(b).handle) == (a == b)


@given(st.lists(st.sampled_from(["a", "b", "ab"]), min_size=2, max_size=5), st.data())
def test_every_split_of_one_text_is_a_volume_of_its_own(parts: list[str], data: Any) -> None:
    splits = [("-".join(parts[:i]), "-".join(parts[i:])) for i in range(1, len(parts))]
    volumes = {of(split).volume for split in splits}
    assert len(volumes) == len(set(splits))
    assert "-".join(parts) == of(splits[0]).volume  # Fluid's own name, where the namespace has no dash


@pytest.mark.parametrize(
    ("namespace", "name", "volume", "id_"),
    [
        ("default", "demo", "default-demo", "default-demo"),
        ("default", "my-demo", "default-my-demo", "default-my-demo"),
        ("n", "d" * 60, "n-" + "d" * 60, "n-" + "d" * 60),
        ("n", "d" * 61, "n-" + "d" * 61, UID),  # from 63 characters on Fluid takes the uid
    ],
)
def test_names_are_fluids_where_they_can_be(namespace: str, name: str, volume: str, id_: str) -> None:
    names = of((namespace, name))
    assert (names.volume, names.id, names.claim) == (volume, id_, name)


@pytest.mark.parametrize(
    ("name", "key"),
    [("d" * 40, "fluid.io/s-default-" + "d" * 40), ("d" * 43, "fluid.io/s-default-" + "d" * 43), ("d" * 44, f"fluid.io/s-{UID}")],
)
def test_node_labels_count_the_whole_key(name: str, key: str) -> None:
    assert fluidnames.node_label("s", "default", name, UID) == key


def test_workers_have_fluids_names_while_these_fit() -> None:
    assert of(("n", "demo")).workers == "demo-worker"
    assert of(("n", "demo")).service == "svc-demo-worker"
    assert of(("n", "d" * 45)).workers == "d" * 45 + "-worker"
    assert re.fullmatch(r"d{33}-x[a-z2-7]{10}-worker", of(("n", "d" * 46)).workers)
    assert msgspec.to_builtins(of(("n", "demo")))["name"] == "demo"
