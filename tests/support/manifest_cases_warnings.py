"""Manifests that load, and what is said of each: (text, line, part of the field, words of the message)."""

from __future__ import annotations

from manifest_cases import GOOD, dataset, runtime, tier

WARNINGS: dict[str, tuple[str, int, str, str]] = {
    "kind of another group": ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", 2, "kind", "not acted on here"),
    "operation": (dataset(GOOD) + runtime("DataLoad", "dataset: {name: d}"), 9, "kind", "is not acted on yet"),
    "field": (dataset(GOOD + "\nplacement: Shared"), 7, "spec.placement", "is not acted on yet"),
    "shared": (
        dataset("mounts:\n  - {mountPoint: 's3://bucket', shared: true}"),
        6,
        "spec.mounts[0].shared",
        "is not acted on yet",
    ),
    "scheme": (dataset("mounts:\n  - mountPoint: pvc://claim/x"), 6, "spec.mounts[0].mountPoint", "no store here serves yet"),
    "no scheme under Thin": (
        dataset("mounts:\n  - {mountPoint: '10.0.0.1:/export', name: x}") + runtime("ThinRuntime"),
        6,
        "mountPoint",
        "has no scheme",
    ),
    "host and path": (dataset("mounts:\n  - {mountPoint: '10.0.0.1:/export', name: x}"), 6, "mountPoint", "has no scheme"),
    "scheme of a class": (
        dataset("mounts:\n  - mountPoint: demofs:///x")
        + runtime("CacheRuntime", "runtimeClassName: c")
        + "---\napiVersion: data.fluid.io/v1alpha1\nkind: CacheRuntimeClass\nmetadata: {name: c}\nfileSystemType: demofs\n"
        "topology: {client: {template: {spec: {containers: [{name: x}]}}}}\n",
        6,
        "mountPoint",
        "no store here serves yet",
    ),
    "scheme of a profile elsewhere": (
        dataset("mounts:\n  - mountPoint: demofs:///x") + runtime("ThinRuntime", "profileName: p"),
        6,
        "mountPoint",
        "only the engine of the ThinRuntime can know",
    ),
    "writing": (dataset("accessModes: [ReadWriteMany]\n" + GOOD), 5, "spec.accessModes[0]", "mounted read-only"),
    "runtime field": (
        dataset(GOOD) + runtime("AlluxioRuntime", "properties: {a: b}"),
        12,
        "spec.properties",
        "is not acted on yet",
    ),
    "runtime alone": (runtime("AlluxioRuntime", "replicas: 1"), 4, "metadata.name", "names no Dataset of these files"),
    "profile": (dataset(GOOD) + runtime("ThinRuntime", "profileName: nfs"), 12, "spec.profileName", "not in these files"),
    "class": (dataset(GOOD) + runtime("CacheRuntime", "runtimeClassName: c"), 12, "spec.runtimeClassName", "not in these files"),
    "dataset of a load": (runtime("DataLoad", "dataset: {name: d}"), 6, "spec.dataset.name", "not in these files"),
    "dataset of a reference": (dataset("mounts: [{mountPoint: 'dataset://ns/x'}]"), 5, "mountPoint", "not in these files"),
    "predecessor": (
        runtime("DataLoad", "dataset: {name: d}\nrunAfter: {kind: DataLoad, name: z}"),
        7,
        "spec.runAfter.name",
        "not in these files",
    ),
    "secret": (
        dataset("sharedEncryptOptions:\n  - {name: access, valueFrom: {secretKeyRef: {name: s, key: k}}}\n" + GOOD),
        6,
        "secretKeyRef.name",
        "names a Secret that is not in these files",
    ),
    "unused secret": ("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: v}\n", 1, "", "not used by a Dataset"),
    "field of a secret": (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringdata: {k: v}\n",
        4,
        "stringdata",
        "is no field of a Secret",
    ),
    "unknown option": (
        dataset("mounts:\n  - mountPoint: s3://bucket\n    options: {fs.s3.endpiont: x}"),
        7,
        "options[",
        "is no option of the s3 store",
    ),
    "plain credential": (
        dataset("mounts:\n  - mountPoint: s3://bucket\n    options: {secret-key: x, access-key: y}"),
        7,
        "secret-key",
        "credential in plain text",
    ),
    "credentials in the mount point": (
        dataset("mounts:\n  - mountPoint: http://u:p@h/"),
        6,
        "mountPoint",
        "credentials in plain text",
    ),
    "null": (dataset(GOOD + "\nsharedOptions:"), 7, "spec.sharedOptions", "is empty and counts as absent"),
    "status": (dataset(GOOD) + "status: {phase: Bound}\n", 7, "status", "is not acted on yet"),
    "relative path": (
        dataset("mounts:\n  - {mountPoint: 's3://bucket', name: n, path: sub}"),
        6,
        "mounts[0].path",
        'appears at "/n"',
    ),
    "union under another engine": (
        dataset("mounts:\n  - {mountPoint: 's3://bucket', name: n}\n  - {mountPoint: 's3://other', name: n}")
        + runtime("AlluxioRuntime"),
        7,
        "mounts[1].path",
        "a union",
    ),
    "annotation of Fluid": (
        dataset(GOOD, name="d, annotations: {pvc.fluid.io/resources.requests.storage: 1Gi}"),
        3,
        "annotations",
        "not acted on",
    ),
    "annotation of ours": (
        dataset(GOOD, name="d, annotations: {forebay.io/freshnes: event}"),
        3,
        "annotations",
        "no annotation of forebay",
    ),
    "namespace of a cluster kind": (
        "apiVersion: data.fluid.io/v1alpha1\nkind: ThinRuntimeProfile\nmetadata: {name: n, namespace: x}\n"
        "spec: {fileSystemType: nfs}\n",
        3,
        "metadata.namespace",
        "cluster-scoped",
    ),
    "juicefs without quota": (tier("mediumtype: SSD, path: /c", "JuiceFSRuntime"), 14, "levels[0].quota", "is missing"),
    "no spec": ("apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: d}\n", 1, "spec.mounts", "is missing"),
    "schedule without cron": (
        runtime("DataLoad", "dataset: {name: x}\nschedule: '* * * * *'"),
        7,
        "spec.schedule",
        "has no effect",
    ),
    "on event": (runtime("DataLoad", "dataset: {name: x}\npolicy: OnEvent"), 7, "spec.policy", "does nothing in Fluid"),
    "client tiers": (
        dataset(GOOD)
        + runtime(
            "CacheRuntime",
            """
            runtimeClassName: c
            worker: {tieredStore: {levels: [{emptyDir: {quota: 1Gi}}]}}
            client: {tieredStore: {levels: [{emptyDir: {quota: 1Gi}}]}}
            """,
        ),
        14,
        "spec.client.tieredStore",
        "the worker's tiers are used",
    ),
}
