"""docs/coming-from-fluid.md names every field, label and annotation, and none that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from forebay.api.fluid import blocks as fluid_blocks
from forebay.api.fluid import kinds as fluid
from forebay.api.fluid import names as fluidnames
from forebay.api.fluid import runtimes as fluid_runtimes
from forebay.api.fluid import status
from forebay.api.schema import List, Obj, Type
from forebay.runtimes.forebay import settings

PAGE = Path(__file__).parents[3] / "docs" / "coming-from-fluid.md"
VERDICTS = {"same", "better", "engine", "later", "refused"}
CLASSIC = ("AlluxioRuntime", "JindoRuntime", "JuiceFSRuntime", "ThinRuntime", "EFCRuntime", "VineyardRuntime")
BLOCKS: dict[str, tuple[Obj, ...]] = {
    "Block: mount": (fluid_blocks.MOUNT,),
    "Block: encryptOption": (fluid_blocks.ENCRYPT_OPTION,),
    "Block: tieredstore": (fluid_blocks.TIERED_STORE,),
    "Block: tieredStore of a CacheRuntime": (fluid_runtimes.CACHE_TIERS,),
    "Block: small ones": (
        fluid_blocks.VERSION,
        fluid_blocks.RESOURCES,
        fluid_blocks.POD_META,
        fluid_blocks.USER,
        fluid_blocks.MANAGEMENT,
        fluid_blocks.CLEAN_CACHE,
        fluid_blocks.OPERATION_REF,
    ),
}
SHARED = [block for blocks in BLOCKS.values() for block in blocks]
CORE = (fluid_blocks.ENVS, fluid_blocks.PORTS)
"""Core types of Kubernetes that are spelled out."""


def walk(type_: Type, at: str = "", top: Type | None = None) -> Iterator[str]:
    """Paths below a type, lists without brackets; not into a block, which has a section of its own."""
    if any(type_ is core for core in CORE):
        return
    while isinstance(type_, List):
        type_ = type_.of
    if isinstance(type_, Obj) and (type_ is top or not any(type_ is block for block in SHARED)):
        for name, field in type_.fields.items():
            path = f"{at}.{name}" if at else name
            yield path
            yield from walk(field.type, path)


def fields(kind: str) -> set[str]:
    whole = fluid.KINDS[kind]
    if kind == "CacheRuntimeClass":
        return {p for p in walk(whole) if p.split(".")[0] not in ("apiVersion", "kind", "metadata")}
    return set(walk(whole.fields["spec"].type))


def expanded(text: str) -> list[str]:
    """`a.{b,c}` -> `a.b`, `a.c`."""
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        return [text]
    return [whole for part in match[1].split(",") for whole in expanded(text[: match.start()] + part + text[match.end() :])]


def sections() -> dict[str, list[tuple[str, str]]]:
    """Heading -> the rows of its tables below their heads: (first column, second column)."""
    found: dict[str, list[tuple[str, str]]] = {}
    name, body = "", False
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            name, body = line.lstrip("# "), False
        elif line.startswith("|---"):
            body = True
        elif line.startswith("|") and body:
            first, second = (cell.strip() for cell in line.strip("|").split("|")[:2])
            found.setdefault(name, []).append((first, second))
        else:
            body = False
    return found


def named(section: str) -> dict[str, str]:
    """Field -> verdict."""
    found: dict[str, str] = {}
    for first, verdict in sections()[section]:
        for token in re.findall(r"`([^`]+)`", first):
            for path in expanded(token):
                assert path not in found, f"{section}: {path} stands twice"
                found[path] = verdict
    return found


@pytest.mark.parametrize("kind", fluid.KINDS)
def test_every_field_of_every_kind_is_named_and_no_other(kind: str) -> None:
    own, common = named(kind), named("Runtimes") if kind in CLASSIC else {}
    assert fields(kind) - own.keys() - common.keys() == set()
    assert own.keys() - fields(kind) == set()
    assert own.keys() & common.keys() == set()


def test_what_is_said_of_all_runtimes_is_said_of_some() -> None:
    assert named("Runtimes").keys() <= set().union(*(fields(kind) for kind in CLASSIC))


@pytest.mark.parametrize("section", BLOCKS)
def test_every_field_of_a_block(section: str) -> None:
    wanted = {path for block in BLOCKS[section] for path in walk(block, top=block)}
    if section == "Block: small ones":
        wanted |= {f"cleanCachePolicy.{name}" for name in fluid_blocks.CLEAN_CACHE.fields}
    assert named(section).keys() == wanted


@pytest.mark.parametrize(
    ("section", "struct"),
    [
        ("Status of a Dataset", status.DatasetStatus),
        ("Status of the classic runtimes", status.RuntimeStatus),
        ("Status of a CacheRuntime", status.CacheRuntimeStatus),
        ("Status of operations", status.OperationStatus),
    ],
)
def test_every_field_of_a_status(section: str, struct: type[msgspec.Struct]) -> None:
    assert named(section).keys() == {f.encode_name for f in msgspec.structs.fields(struct)}


def test_every_row_has_one_of_the_words() -> None:
    for section, rows in sections().items():
        if section in fluid.KINDS or section == "Runtimes" or section.startswith(("Block: ", "Status of ")):
            assert {verdict for _, verdict in rows} <= VERDICTS, section


@pytest.mark.parametrize("kind", [*CLASSIC, "CacheRuntime"])
def test_what_is_called_the_same_is_acted_on_and_the_rest_is_named_in_the_event(kind: str) -> None:
    """By the lists that the Event is made from."""
    where = "client" if kind == "CacheRuntime" else "fuse"
    page = {**(named("Runtimes") if kind in CLASSIC else {}), **named(kind)}
    for path in fields(kind):
        parts = path.split(".")
        if len(parts) == 1:
            acted = path in settings._SERVED
        elif len(parts) == 2 and parts[0] == "worker":
            acted = parts[1] in settings.served_of_workers(kind)
        elif len(parts) == 2 and parts[0] == where:
            acted = parts[1] in settings._SERVED_FUSE
        else:
            continue
        assert (page[path] in ("same", "better")) == acted, path


KEYS = """
app release heritage role app.kubernetes.io/name app.kubernetes.io/instance app.kubernetes.io/managed-by targetDataset cronjob
parallelism CreatedBy fluid_exclusive fluid.io/dataset-num fluid.io/dataset-id fluid.io/dataset fluid.io/dataset-placement
fluid.io/managed-by fluid.io/wrapped-by fluid.io/copied-from fluid.io/dataset.referring-name fluid.io/dataset.referring-namespace
fluid.io/s-<namespace>-<name> fluid.io/s-<type>-<namespace>-<name> fluid.io/s-h-<type>-m-<namespace>-<name>
fluid.io/s-h-<type>-d-<namespace>-<name> fluid.io/s-h-<type>-t-<namespace>-<name> fluid.io/f-<namespace>-<name>
fluid.io/efc-sessmgr fluid.io/fuse-balloon fluid.io/jobPolicy fluid.io/operation fluid.io/dataflow fluid.io/enable-injection
fluid.io/datasets-in-use fluid.io/dataset.<claim>.sched fluid.io/node-publish-method fluid.io/skip-check-mount-ready-target
fluid.io/runtime-rpc-protocol runtime.fluid.io/fuse.hostpid runtime.fluid.io/disable-helm-value-config
controller.runtime.fluid.io/replicas fuse.runtime.fluid.io/generation data.fluid.io/metadataList
pvc.fluid.io/resources.requests.storage cacheruntime.fluid.io/name cacheruntime.fluid.io/component-name
fuse.serverful.fluid.io/inject serverless.fluid.io/inject fuse.sidecar.fluid.io/inject unprivileged.sidecar.fluid.io/inject
cachedir.sidecar.fluid.io/inject app.poststart.fluid.io/inject fuse.sidecar.poststart.fluid.io/inject done.sidecar.fluid.io/inject
worker.sidecar.fluid.io/inject dataset-name.sidecar.fluid.io/<container> dataset-namespace.sidecar.fluid.io/<container>
serverless.fluid.io/platform <platform>.fluid.io/<key> default.fuse-sidecar.fluid.io/host-mount-path-mode
sidecar.fluid.io/skip-precheck file-prefetcher.fluid.io/inject file-prefetcher.fluid.io/inject-done
file-prefetcher.fluid.io/image file-prefetcher.fluid.io/file-list file-prefetcher.fluid.io/async-prefetch
file-prefetcher.fluid.io/extra-envs file-prefetcher.fluid.io/prefetch-timeout-seconds prometheus.fuse.fluid.io/scrape
affinity.dataflow.fluid.io/labels affinity.dataflow.fluid.io.<label> affinity.dataflow.fluid.io/inject
"""
"""Labels and annotations of Fluid a826600a, whoever sets them, on whatever."""


def test_every_label_and_annotation_of_fluids_is_named_once() -> None:
    tokens = [
        e for first, _ in sections()["Labels and annotations"] for t in re.findall(r"`([^`]+)`", first) for e in expanded(t)
    ]
    assert len(tokens) == len(set(tokens)), [t for t in tokens if tokens.count(t) > 1]
    assert set(KEYS.split()) - set(tokens) == set()
    assert {t for t in set(tokens) - set(KEYS.split()) if not t.startswith("forebay.io/")} <= {"required", '"false"'}


def test_every_kind_is_named() -> None:
    text = " ".join(first for first, _ in sections()["Kinds"])
    assert set(fluid.KINDS) <= set(re.findall(r"`(\w+)`", text))


def test_every_label_and_annotation_of_fluids_that_is_read_or_written_is_named() -> None:
    tokens = {
        e for first, _ in sections()["Labels and annotations"] for t in re.findall(r"`([^`]+)`", first) for e in expanded(t)
    }
    known = {v for v in vars(fluidnames).values() if isinstance(v, str) and re.fullmatch(r"[a-zA-Z.-]*fluid\.io/[A-Za-z./-]+", v)}
    assert known
    for key in known:
        assert any(token.startswith(key) for token in tokens), key
