"""The store: indexes, subscribers, objects that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.kube.objects import Key
from forebay.kube.store import Broken, Change, Store, Undecodable

A, B = Key("ns", "a"), Key("ns", "b")


def letters(text: str) -> Iterable[str]:
    return text


def test_indexes_follow_what_is_held() -> None:
    store = Store[str]({"letter": letters})
    store.upsert(A, "xy")
    store.upsert(B, "yyz")
    assert store.where("letter", "y") == ["xy", "yyz"]
    store.upsert(A, "z")
    assert store.where("letter", "x") == []
    assert sorted(store.where("letter", "z")) == ["yyz", "z"]
    store.remove(B)
    assert store.index_values("letter") == ["z"]
    with pytest.raises(KeyError):
        store.where("node", "n1")


def test_subscribers_are_told_what_was_and_what_is() -> None:
    store, told = Store[str](), list[Change[str]]()
    store.upsert(A, "1")
    store.subscribe(told.append)
    store.upsert(A, "2")
    store.upsert(B, "3")
    store.remove(A)
    assert told == [Change(A, None, "1"), Change(A, "1", "2"), Change(B, None, "3"), Change(A, "2", None)]


def test_an_object_that_cannot_be_read_is_there_and_says_so() -> None:
    store = Store[str]({"letter": letters})
    store.upsert(A, "x")
    store.upsert(A, Broken("7", "spec.replicas: expected int"))
    with pytest.raises(Undecodable, match=r"ns/a: spec.replicas: expected int; correct the object, its version 7"):
        store.get(A)
    assert (store.all_keys(), store.values(), len(store)) == ([A], [], 1)
    assert store.where("letter", "x") == []
    store.upsert(A, "y")
    assert store.get(A) == "y"
    assert store.broken() == {}
    assert store.get(B) is None


def test_an_indexer_that_fails_leaves_the_store_as_it_was() -> None:
    def fussy(text: str) -> Iterable[str]:
        if text == "bad":
            raise ValueError(text)
        return [text]

    store = Store[str]({"it": fussy})
    store.upsert(A, "good")
    with pytest.raises(ValueError, match="bad"):
        store.upsert(A, "bad")
    assert store.get(A) == "good"
    assert store.where("it", "good") == ["good"]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.text("xyz", max_size=4), st.just(Broken("1", "bad"))))))
def test_an_index_is_what_a_search_through_all_finds(changes: list[tuple[str, str | Broken | None]]) -> None:
    store, model = Store[str]({"letter": letters}), dict[str, str | Broken]()
    for name, value in changes:
        key = Key("", name)
        if value is None:
            store.remove(key)
            model.pop(name, None)
        else:
            store.upsert(key, value)
            model[name] = value
    good = [value for value in model.values() if isinstance(value, str)]
    assert sorted(store.values()) == sorted(good)
    assert len(store) == len(model)
    for letter in "xyz":
        assert sorted(store.where("letter", letter)) == sorted(v for v in good if letter in v)
    assert set(store.index_values("letter")) == set("".join(good))
