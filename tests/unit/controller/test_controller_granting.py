"""What a grant's status says: whether it gives anything, who uses it, when that ends."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import controllerworld as w
import pytest
from test_controller_passes import World

from forebay.api.grant import Reference
from forebay.controller.datasets.granting import Shown, status
from forebay.kube.objects import Key

NOW = datetime(2026, 11, 27, 5, 0, 0, tzinfo=UTC)
VIEW = Shown("view", Reference("d", "lab", {"team": "a"}, "/train"))


def grant(**spec: Any) -> dict[str, Any]:
    meta = {"name": "g", "namespace": "ns", "generation": 3}
    return {"kind": "DatasetGrant", "metadata": meta, "spec": {"dataset": "d", **spec}}


@pytest.mark.parametrize(
    ("spec", "there", "said", "users"),
    [
        ({"namespaces": ["lab"]}, True, ("True", "Given"), ("lab/view",)),
        ({"namespaceSelector": {"matchLabels": {"team": "a"}}}, True, ("True", "Given"), ("lab/view",)),
        ({"namespaces": ["other"]}, True, ("True", "Given"), ()),  # it shows the data by another grant
        ({"namespaces": ["lab"], "paths": ["/val"]}, True, ("True", "Given"), ()),
        ({"namespaces": ["lab"]}, False, ("False", "DatasetMissing"), ()),
        ({"namespaces": ["lab"], "expires": "2026-11-27T05:00:00Z"}, True, ("False", "Expired"), ()),
        ({"namespaces": ["lab"], "expires": "2026-11-27T05:00:01Z"}, True, ("True", "Given"), ("lab/view",)),
        ({"namespaces": ["lab"], "expires": "2026-11-27t05:00:00z"}, True, ("False", "Expired"), ()),  # RFC 3339 too
        ({"namespaces": ["lab"], "expires": "2026-11-27t05:00:01+00:00"}, True, ("True", "Given"), ("lab/view",)),
        ({"namespaces": ["lab"], "expires": "0000-11-27T05:00:00Z"}, True, ("False", "GrantRefused"), ()),  # before our calendar
        ({"namespaces": ["lab"], "expires": "2026-11-27T05:00:00"}, True, ("False", "GrantRefused"), ()),
        ({"namespaces": "lab"}, True, ("False", "GrantRefused"), ()),
        (
            {"namespaceSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Near"}]}},
            True,
            ("False", "GrantRefused"),
            (),
        ),
        ({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}, True, ("False", "GrantRefused"), ()),
    ],
)
def test_what_a_grant_says(spec: dict[str, Any], there: bool, said: tuple[str, str], users: tuple[str, ...]) -> None:
    found = status(grant(**spec), there=there, shown=[VIEW], now=NOW)
    (ready,) = found.conditions
    assert ((ready.status, ready.reason), found.referrers) == (said, users)
    assert (ready.observed_generation, found.observed_generation) == (3, 3)
    assert bool(ready.message) == (ready.status == "False")


def test_it_is_written_once_also_for_a_dataset_that_is_not_there() -> None:
    world = World(w.dataset(), w.runtime(), grant(namespaces=["lab"]))
    assert world.run().count("apply DatasetGrant/status") == 1
    assert "apply DatasetGrant/status" not in world.run()
    lonely = World({**grant(namespaces=["lab"]), "spec": {"dataset": "none", "namespaces": ["lab"]}})
    assert lonely.run(Key("ns", "none")) == ["apply DatasetGrant/status"]
    assert lonely.run(Key("ns", "none")) == []


def test_a_grant_that_cannot_be_read_fails_no_pass_of_its_dataset() -> None:
    world = World(w.dataset(), w.runtime(), grant(namespaces=["lab"], expires="0000-11-27T05:00:00Z"))
    assert world.run().count("apply DatasetGrant/status") == 1
    assert "apply DatasetGrant/status" not in world.run()
