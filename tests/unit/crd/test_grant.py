"""What a DatasetGrant gives, and why it does not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from forebay.api.grant import GrantSpec, Reference, refusal, selects

NOW = datetime(2026, 11, 27, 4, 0, tzinfo=UTC)
ASK = Reference("corpus", "team-b", {"team": "b", "tier": "gold"})
AT_BIN = Reference("corpus", "team-b", {}, "/bin/x")


@pytest.mark.parametrize(
    ("grant", "reference", "words"),
    [
        (GrantSpec(dataset="corpus", namespaces=("team-b",)), ASK, ""),
        (GrantSpec(dataset="other", namespaces=("team-b",)), ASK, "for dataset other"),
        (GrantSpec(dataset="corpus", namespaces=("team-c",)), ASK, "does not name namespace team-b"),
        (GrantSpec(dataset="corpus"), ASK, "does not name namespace team-b"),
        (GrantSpec(dataset="corpus", namespace_selector={}), ASK, ""),
        (GrantSpec(dataset="corpus", namespace_selector={"matchLabels": {"team": "b"}}), ASK, ""),
        (GrantSpec(dataset="corpus", namespace_selector={"matchLabels": {"team": "c"}}), ASK, "does not name"),
        (GrantSpec(dataset="corpus", namespaces=("team-b",), namespace_selector={"matchLabels": {"x": "y"}}), ASK, ""),
        (GrantSpec(dataset="corpus", namespaces=("team-b",), expires="2026-11-27T04:00:01Z"), ASK, ""),
        (GrantSpec(dataset="corpus", namespaces=("team-b",), expires="2026-11-27T04:00:00Z"), ASK, "ended at"),
        (GrantSpec(dataset="corpus", namespaces=("team-b",), expires="2026-11-27T05:00:00+02:00"), ASK, "ended at"),
        (GrantSpec(dataset="corpus", namespaces=("team-b",), paths=("/bin",)), AT_BIN, ""),
        (GrantSpec(dataset="corpus", namespaces=("team-b",), paths=("/bin/x",)), AT_BIN, ""),
        (GrantSpec(dataset="corpus", namespaces=("team-b",), paths=("/",)), AT_BIN, ""),
        (GrantSpec(dataset="corpus", namespaces=("team-b",), paths=("/src", "/bin/")), AT_BIN, ""),
        (GrantSpec(dataset="corpus", namespaces=("team-b",), paths=("/bi",)), AT_BIN, "gives /bi, not /bin/x"),
        (GrantSpec(dataset="corpus", namespaces=("team-b",), paths=("/bin/x/y",)), AT_BIN, "gives /bin/x/y"),
        (GrantSpec(dataset="corpus", namespaces=("team-b",), paths=("/bin",)), ASK, "gives /bin, not /"),
    ],
)
def test_refusals(grant: GrantSpec, reference: Reference, words: str) -> None:
    said = refusal(grant, reference, NOW)
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.parametrize(
    ("operator", "key", "values", "selected"),
    [
        ("In", "tier", ["gold", "silver"], True),
        ("In", "tier", ["silver"], False),
        ("In", "none", ["gold"], False),
        ("NotIn", "tier", ["gold"], False),
        ("NotIn", "none", ["gold"], True),
        ("Exists", "tier", [], True),
        ("Exists", "none", [], False),
        ("DoesNotExist", "tier", [], False),
        ("DoesNotExist", "none", [], True),
    ],
)
def test_selectors(operator: str, key: str, values: list[str], selected: bool) -> None:
    term: dict[str, Any] = {"key": key, "operator": operator, "values": values}
    assert selects({"matchExpressions": [term]}, ASK.labels) is selected
    assert selects({"matchLabels": {"team": "b"}, "matchExpressions": [term]}, ASK.labels) is selected
    assert not selects({"matchLabels": {"team": "c"}, "matchExpressions": [term]}, ASK.labels)


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(ValueError, match="Near is no operator"):
        selects({"matchExpressions": [{"key": "a", "operator": "Near"}]}, {})


@pytest.mark.parametrize("path", ["/bin/../src", "bin", "/bin/./x"])
def test_a_path_that_may_lead_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"holds a|not absolute"):
        refusal(
            GrantSpec(dataset="corpus", namespaces=("team-b",), paths=("/bin",)), Reference("corpus", "team-b", {}, path), NOW
        )
