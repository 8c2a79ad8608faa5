"""What the validating webhook refuses and what it only says: a table of cases, and every manifest that must be taken."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from manifest_cases_warnings import WARNINGS

from forebay.controller.admission import objects
from forebay.controller.admission.knowledge import COPIED, Knowledge
from forebay.controller.admission.review import Answer
from forebay.controller.kinds import RESOURCES
from forebay.kube.objects import Key
from forebay.runtimes.engine import Installation

Object = dict[str, Any]
DATA = Path(__file__).resolve().parents[2] / "data" / "fluid-manifests"
UIDS = itertools.count(1)


class World:
    """A cluster without a server: what was admitted is in the copies."""

    def __init__(self) -> None:
        self.knowledge = Knowledge(Installation())
        self.have("apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {team: vision}}\n")

    def have(self, text: str) -> None:
        for obj in yaml.safe_load_all(text):
            self.put(obj)

    def put(self, obj: Object) -> None:
        kind = obj["kind"]
        space = obj["metadata"].get("namespace", "default") if RESOURCES[kind].namespaced else ""
        meta = {"resourceVersion": "1", "uid": f"u{next(UIDS)}", **obj["metadata"], "namespace": space}
        thing = msgspec.json.decode(msgspec.json.encode({**obj, "metadata": meta}), type=COPIED[kind].type_)
        self.knowledge.stores[kind].upsert(Key(space, obj["metadata"]["name"]), thing)

    def ask(self, text: str, old: str = "") -> Answer:
        """As an API server asks: with the namespace, and pruned of nulls."""
        new, before = (yaml.safe_load(part) if part else None for part in (text, old))
        for obj in (new, before):
            if obj is not None and RESOURCES[obj["kind"]].namespaced:
                obj["metadata"].setdefault("namespace", "default")
        waits = self.knowledge.waits(new) if new["kind"] == "Dataset" else ""
        return objects.judge(new, before, self.knowledge.around(new), waits)


def dataset(spec: str, name: str = "d", meta: str = "") -> str:
    return f"apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {{name: {name}{meta}}}\nspec: {{{spec}}}\n"


def runtime(kind: str = "AlluxioRuntime", spec: str = "replicas: 1", name: str = "d", meta: str = "") -> str:
    return f"apiVersion: data.fluid.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}{meta}}}\nspec: {{{spec}}}\n"


GOOD = 'mounts: [{mountPoint: "s3://bucket/x", name: m}]'
CASES = {
    "one mount twice": (
        'mounts: [{mountPoint: "s3://bucket/x", name: m}, {mountPoint: "s3://bucket/x", name: m}]',
        "spec.mounts[1].mountPoint",
        "stands twice on one path; remove one of the two",
    ),
    "an option plain and encrypted": (
        'mounts: [{mountPoint: "s3://bucket/x", name: m, options: {k: v}, '
        "encryptOptions: [{name: k, valueFrom: {secretKeyRef: {name: s, key: x}}}]}]",
        "spec.mounts[0].encryptOptions[0]",
        "stands in the plain and in the encrypted options; keep one of the two",
    ),
    "a path that leads out": (
        'mounts: [{mountPoint: "s3://bucket/x", path: /a/../b}]',
        "spec.mounts[0].path",
        'holds a ".." part',
    ),
    "a name that leads out": ('mounts: [{mountPoint: "s3://bucket/x", name: ..}]', "spec.mounts[0].name", 'holds a ".." part'),
    "a reference that leads out": (
        'mounts: [{mountPoint: "dataset://ns/x/../y"}]',
        "spec.mounts[0].mountPoint",
        "is no reference to a dataset; write dataset://namespace/name",
    ),
    "a reference to itself": ('mounts: [{mountPoint: "dataset://default/d"}]', "spec.mounts[0].mountPoint", "to itself"),
    "a reference beside others": (
        'mounts: [{mountPoint: "dataset://a/b", name: r}, {mountPoint: "s3://bucket/x", name: m}]',
        "spec.mounts[0].mountPoint",
        "beside other mounts",
    ),
    "a freshness": (
        'mounts: [{mountPoint: "s3://bucket/x", options: {forebay.io/freshness: soon}}]',
        "freshness",
        "is no freshness",
    ),
    "no bucket": ('mounts: [{mountPoint: "s3:///x"}]', "spec.mounts[0].mountPoint", ""),
    "no scheme": ('mounts: [{mountPoint: "bucket/x"}]', "spec.mounts[0].mountPoint", "has no scheme; write one such as s3://"),
}


@pytest.mark.parametrize(("spec", "field", "words"), CASES.values(), ids=CASES)
def test_a_dataset_is_refused_with_field_and_remedy(spec: str, field: str, words: str) -> None:
    answer = World().ask(dataset(spec))
    assert answer.refused, answer
    cause = answer.refused[0]
    assert field in cause.field
    assert cause.message.startswith(cause.field)
    assert words in cause.message
    assert ";" in cause.message, "no remedy"


QUOTAS = {
    "blanks": ("quotaList: '1Gi, 2Gi', path: '/a,/b'", "remove the blanks"),
    "too few": ("quotaList: '1Gi,2Gi', path: '/a,/b,/c'", "give one for each"),
    "nothing": ("path: /a", "is missing, and so is quotaList"),
    "not positive": ("quota: '0', path: /a", "is not positive"),
    "10 GB": ("quota: 10 GB, path: /a", "10G"),
    "watermarks": ("quota: 1Gi, path: /a, high: '0.5', low: '0.9'", "is not below high"),
    "a path that leads out": ("quota: 1Gi, path: /a/../b", 'holds a ".." part'),
}


@pytest.mark.parametrize(("level", "words"), QUOTAS.values(), ids=QUOTAS)
def test_a_tier_is_refused_with_its_remedy(level: str, words: str) -> None:
    answer = World().ask(runtime(spec=f"tieredstore: {{levels: [{{mediumtype: SSD, {level}}}]}}"))
    assert any(words in c.message for c in answer.refused), answer


def test_a_second_runtime_for_one_dataset_is_refused_until_the_first_is_going() -> None:
    world = World()
    world.have(runtime())
    answer = world.ask(runtime("JindoRuntime"))
    assert "is a second runtime for one dataset (the first is the AlluxioRuntime" in answer.refused[0].message
    world.have(runtime(meta=", deletionTimestamp: '2026-01-01T00:00:00Z'"))
    assert not world.ask(runtime("JindoRuntime")).refused
    world.have(runtime(name="other"))
    assert not world.ask(runtime("JindoRuntime", name="e")).refused


def test_no_workers_are_no_mistake_in_a_cluster() -> None:
    assert World().ask(runtime(spec="replicas: 0")) == Answer()


def test_what_may_still_come_is_a_warning_or_nothing() -> None:
    """A Secret, a source, a grant, a class: manifests are applied in any order."""
    world = World()
    secret = "encryptOptions: [{name: secret_key, valueFrom: {secretKeyRef: {name: nowhere, key: x}}}]"
    assert not world.ask(dataset(f'mounts: [{{mountPoint: "s3://bucket/x", {secret}}}]')).refused
    answer = world.ask(dataset('mounts: [{mountPoint: "dataset://lake/corpus"}]'))
    assert not answer.refused
    assert "there is no Dataset lake/corpus to refer to; make it, or correct the mount point" in answer.warnings[0]
    unknown = world.ask(dataset('mounts: [{mountPoint: "demofs:///x"}]'))
    assert not unknown.refused
    assert "has a scheme that neither Fluid" in unknown.warnings[0]
    world.have(runtime())
    assert world.ask(dataset('mounts: [{mountPoint: "demofs:///x"}]')).refused, "an engine that is known does not know it"
    assert not world.ask(runtime("CacheRuntime", "runtimeClassName: nothing", name="x")).refused


def test_a_reference_without_a_grant_is_told_who_can_help() -> None:
    world = World()
    world.have(dataset(GOOD, "corpus", ", namespace: lake"))
    text = dataset('mounts: [{mountPoint: "dataset://lake/corpus/train"}]')
    (warning,) = world.ask(text).warnings
    assert "no DatasetGrant lets namespace default refer to /train of lake/corpus" in warning
    assert "its owner makes a DatasetGrant in namespace lake with dataset: corpus, namespaces: [default]" in warning
    grant = (
        "apiVersion: forebay.io/v1alpha1\nkind: DatasetGrant\nmetadata: {name: g, namespace: lake}\nspec: {dataset: corpus, SPEC}"
    )
    world.have(grant.replace("SPEC", "namespaceSelector: {matchLabels: {team: vision}}, paths: [/train]"))
    assert world.ask(text) == Answer()
    world.have(dataset('mounts: [{mountPoint: "dataset://lake/corpus"}]', "again", ", namespace: lake"))
    refused = world.ask(dataset('mounts: [{mountPoint: "dataset://lake/again"}]')).refused
    assert "is a reference to a reference" in refused[0].message


def test_an_update_is_refused_for_what_it_brings_alone() -> None:
    """What stands wrong, by an older version or while the webhook was down, can be edited, finalized and deleted."""
    world = World()
    bad = dataset(CASES["a path that leads out"][0])
    assert world.ask(bad).refused
    assert not world.ask(bad.replace("metadata: {", "metadata: {labels: {a: b}, "), bad).refused
    worse = bad.replace("mounts: [", 'mounts: [{mountPoint: "s3://bucket/y", path: /x/../y, name: q}, ')
    assert [c.field for c in world.ask(worse, bad).refused] == ["spec.mounts[0].path", "spec.mounts[1].path"]
    going = bad.replace("metadata: {", "metadata: {deletionTimestamp: '2026-01-01T00:00:00Z', ")
    assert world.ask(going, dataset(GOOD)) == Answer()


def test_a_runtime_that_makes_its_dataset_wrong_is_let_in_and_says_so() -> None:
    world = World()
    world.have(dataset('mounts: [{mountPoint: "a:/x", name: m, path: /1}, {mountPoint: "b:/y", name: m, path: /2}]'))
    answer = world.ask(runtime("ThinRuntime"))
    assert not answer.refused
    assert "Dataset default/d: spec.mounts[1].name" in answer.warnings[0]
    assert "is the name of two mounts, which a ThinRuntime refuses" in answer.warnings[0]


def test_warnings_that_hold_in_a_cluster_are_given() -> None:
    world = World()
    plain = world.ask(dataset('mounts: [{mountPoint: "https://user:key@host/x/"}]')).warnings
    assert any("holds credentials in plain text" in w for w in plain)
    assert not any("key@" in w for w in plain)
    assert "mounted read-only" in world.ask(dataset(f"accessModes: [ReadWriteMany], {GOOD}")).warnings[0]
    native = world.ask(dataset(GOOD, meta=", annotations: {forebay.io/engine: native, forebay.io/freshnes: immutable}"))
    assert ["freshnes" in w for w in native.warnings] == [True]
    assert not world.ask(dataset(GOOD, meta=', annotations: {forebay.io/watch: "true"}')).warnings
    assert 'write "true"' in world.ask(dataset(GOOD, meta=", annotations: {forebay.io/watch: sometimes}")).warnings[0]


def test_operations_on_references_are_refused() -> None:
    world = World()
    world.have(dataset('mounts: [{mountPoint: "dataset://a/b"}]'))
    load = "apiVersion: data.fluid.io/v1alpha1\nkind: DataLoad\nmetadata: {name: l}\nspec: {dataset: {name: d, namespace: NS}}"
    assert (
        "is a reference dataset; run the operation on the dataset" in world.ask(load.replace("NS", "default")).refused[0].message
    )
    assert (
        "is not the operation's own namespace"
        in world.ask(load.replace("NS", "other").replace("name: d,", "name: q,")).refused[0].message
    )


def test_nothing_of_files_or_of_one_machine_is_said() -> None:
    """Over everything that `forebay check` warns of."""
    for name, (text, *_) in WARNINGS.items():
        world = World()
        for obj in yaml.safe_load_all(text):
            if not obj or obj.get("kind") not in RESOURCES or RESOURCES[obj["kind"]].group not in ("data.fluid.io", "forebay.io"):
                continue
            for warning in world.ask(yaml.safe_dump(obj)).warnings:
                for words in ("file", "`forebay", "machine", "acted on"):
                    assert words not in warning.replace("file://", ""), f"{name}: {warning}"


@pytest.mark.parametrize("path", sorted(DATA.glob("*.yaml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_fluids_manifests_are_taken_in_any_order(path: Path, reverse: bool) -> None:
    world = World()
    objects_ = [o for o in yaml.safe_load_all(path.read_text()) if o and o["kind"] in RESOURCES]
    for obj in objects_[:: -1 if reverse else 1]:
        if RESOURCES[obj["kind"]].group != "data.fluid.io":
            continue
        assert not world.ask(yaml.safe_dump(obj)).refused, obj["metadata"]
        if obj["kind"] in COPIED:
            world.put(obj)
