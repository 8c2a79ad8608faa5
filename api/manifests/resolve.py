"""Typed manifests -> `DatasetSpec`: secrets, environment and profiles read, every path decided."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from forebay.api.manifests import schemes
from forebay.api.manifests.credentials import CredentialError, aws
from forebay.api.manifests.documents import DatasetDoc, MountDoc
from forebay.api.manifests.freshness import FLOOR, FRESHNESS, parse_floor, parse_freshness
from forebay.api.manifests.loaded import Loaded
from forebay.api.manifests.mounts import secret_values
from forebay.api.manifests.options import translate
from forebay.api.manifests.stores import SourceError, finish, read_source
from forebay.api.manifests.tiers import place
from forebay.api.problem import Problem, Severity, describe_url
from forebay.api.spec import FLOOR_BYTES, FLOOR_RATIO, DatasetSpec, Freshness, Mount


def resolve(
    loaded: Loaded, *, cache_dir: str | None, default_cache: str, environ: Mapping[str, str], home: str | Path
) -> tuple[list[DatasetSpec], list[Problem]]:
    """Specs of every dataset that can be served, and what is wrong beyond `loaded.problems`.

    A dataset with an error (there or here) has no spec. `cache_dir` puts every tier under itself; `default_cache` holds
    what the manifest gives no place. Specs carry secret values: write them to files of mode 0600 only.
    """
    specs: list[DatasetSpec] = []
    problems: list[Problem] = []
    for dataset in loaded.sound():
        resolver = _Resolver(loaded, dataset, environ, home)
        spec = resolver.spec(cache_dir, default_cache)
        problems += resolver.problems
        if not any(p.severity == "error" for p in resolver.problems):
            specs.append(spec)
    return specs, problems


class _Resolver:
    """One dataset. `problems` grows; the spec counts only if no error is among them."""

    def __init__(self, loaded: Loaded, dataset: DatasetDoc, environ: Mapping[str, str], home: str | Path) -> None:
        self.loaded, self.dataset, self.environ, self.home = loaded, dataset, environ, home
        self.problems: list[Problem] = []

    def spec(self, cache_dir: str | None, default_cache: str) -> DatasetSpec:
        dataset, runtime = self.dataset, self.dataset.runtime
        if not dataset.mounts:
            self.add("error", dataset.line, "spec.mounts", "", "is empty", "add a mount to serve the dataset here")
        mounts = [mount for doc in dataset.mounts if (mount := self.mount(doc)) is not None]
        tiers, index = place(
            runtime.levels if runtime else [], dataset.namespace, dataset.name, cache_dir=cache_dir, default_cache=default_cache
        )
        ratio, size = FLOOR_RATIO, FLOOR_BYTES
        floor = dataset.annotations.get(FLOOR) or (runtime.annotations.get(FLOOR) if runtime else None)
        if floor:
            ratio, size = parse_floor(floor)
        elif runtime is not None and runtime.free_ratio is not None:
            ratio = runtime.free_ratio
        return DatasetSpec(
            dataset.namespace,
            dataset.name,
            mounts,
            tiers,
            index,
            uid=dataset.uid,
            gid=dataset.gid,
            floor_ratio=ratio,
            floor_bytes=size,
        )

    def mount(self, doc: MountDoc) -> Mount | None:
        """The mount in its store's terms; None (and an error) when it cannot be served here."""
        point = f"{doc.field}.mountPoint"
        store = schemes.SERVED.get(doc.scheme)
        if store is None:
            self.add("error", doc.line, point, describe_url(doc.mount_point), *schemes.unserved(doc.scheme))
            return None
        values, _ = secret_values(self.loaded, self.dataset, doc)
        taken, _ = translate(store, doc.options, values)  # what is wrong with options was reported by `load`
        try:
            done = finish(read_source(doc), taken, partial(aws, self.environ, self.home))
        except SourceError as e:
            self.add("error", doc.line, point, describe_url(doc.mount_point), str(e), e.remedy)
            return None
        except CredentialError as e:
            self.add("error", doc.line, point, describe_url(doc.mount_point), f"has no usable credentials: {e}", e.remedy)
            return None
        for note, remedy in done.notes:
            self.add("warning", doc.line, point, describe_url(doc.mount_point), note, remedy)
        freshness = doc.options.get(FRESHNESS) or self.dataset.annotations.get(FRESHNESS)
        return Mount(
            source=done.url,
            store=store,
            path=doc.place,
            name=doc.name,
            options=done.options,
            secrets=done.secrets,
            read_only=True,  # writes are not served yet
            freshness=parse_freshness(freshness) if freshness else Freshness(),
        )

    def add(  # noqa: PLR0917 - one call per finding
        self, severity: Severity, line: int, field: str, value: str, message: str, remedy: str
    ) -> None:
        self.problems.append(Problem(severity, self.dataset.file, line, self.dataset.label, field, value, message, remedy))
