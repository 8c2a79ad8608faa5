"""Bad manifests and what is said of each: (text, line, part of the field, words of value and message, of the remedy)."""

from __future__ import annotations

import textwrap


def dataset(spec: str = "", name: str = "d", extra: str = "") -> str:
    """A Dataset whose spec starts on line 5 of its document."""
    head = f"apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {{name: {name}}}{extra}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def runtime(kind: str, spec: str = "{}", name: str = "d") -> str:
    head = f"---\napiVersion: data.fluid.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def tier(text: str, kind: str = "AlluxioRuntime") -> str:
    """A good Dataset and a runtime with one tier level of flow-style fields."""
    return dataset(GOOD) + runtime(kind, f"tieredstore:\n  levels:\n    - {{{text}}}")


GOOD = "mounts:\n  - {mountPoint: 's3://bucket/x', name: a}"

DATASET_ERRORS: dict[str, tuple[str, int, str, str, str]] = {
    "unknown scheme": (
        dataset("mounts:\n  - mountPoint: s4://bucket/x"),
        6,
        "spec.mounts[0].mountPoint",
        '"s4://bucket/x"',
        '"s3"',
    ),
    "no scheme": (dataset("mounts:\n  - mountPoint: bucket/x"), 6, "spec.mounts[0].mountPoint", "has no scheme", "s3://bucket"),
    "typo in a field": (
        dataset("mounts:\n  - mountpoint: s3://bucket/x"),
        6,
        "spec.mounts[0].mountpoint",
        "is no field",
        '"mountPoint"',
    ),
    "typo at the top": (dataset("mount: []"), 5, "spec.mount", "is no field", '"mounts"'),
    "wrong level": (dataset("mountPoint: s3://bucket"), 5, "spec.mountPoint", "is no field", "spec.mounts[]"),
    "field of no kind": (dataset("zzzzzz: 1"), 5, "spec.zzzzzz", "is no field", "docs/manifests.md"),
    "name no DNS-1035": (dataset(GOOD, name="My_Data"), 3, "metadata.name", '"My_Data" is no DNS-1035', "write my-data"),
    "name starts with a digit": (dataset(GOOD, name="1st"), 3, "metadata.name", '"1st" is no DNS-1035', "write d-1st"),
    "name too long": (dataset(GOOD, name="a" * 64), 3, "metadata.name", "is no DNS-1035", "a" * 63),
    "name no string": (dataset(GOOD, name="12"), 3, "metadata.name", "12 is an integer", "write a string"),
    "no name": ("apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\n", 1, "metadata.name", "is missing", "name:"),
    "namespace": (dataset(GOOD, name="d, namespace: a.b"), 3, "metadata.namespace", '"a.b" is no DNS-1123 label', "a-b"),
    "one dataset twice": (dataset(GOOD) + "---\n" + dataset(GOOD), 10, "metadata.name", "first at f.yaml:1", "remove or rename"),
    "unknown kind": ("apiVersion: data.fluid.io/v1alpha1\nkind: DataSet\n", 2, "kind", '"DataSet" is no kind', '"Dataset"'),
    "removed kind": (
        "apiVersion: data.fluid.io/v1alpha1\nkind: GooseFSRuntime\n",
        2,
        "kind",
        "is no kind",
        "another runtime kind",
    ),
    "version": ("apiVersion: data.fluid.io/v1alpha2\nkind: Dataset\n", 1, "apiVersion", '"data.fluid.io/v1alpha2"', "v1alpha1"),
    "no apiVersion": ("kind: Dataset\n", 1, "apiVersion", "is missing", "data.fluid.io/v1alpha1"),
    "apiversion": ("apiversion: v1\nkind: Dataset\n", 1, "apiVersion", "is missing", 'by "apiversion"?'),
    "no object": ("- a\n- b\n", 1, "", "a list where a Kubernetes object", "apiVersion"),
    "no mounts": (dataset("mounts: []"), 5, "spec.mounts", "is empty", "at least 1"),
    "short mount point": (dataset("mounts:\n  - mountPoint: s3:/"), 6, "mountPoint", "shorter than 5", "longer"),
    "no bucket": (dataset("mounts:\n  - mountPoint: s3:///x"), 6, "mountPoint", "names no bucket", "s3://bucket"),
    "bad bucket": (dataset("mounts:\n  - mountPoint: s3://a b/x"), 6, "mountPoint", "no valid bucket name", "s3://bucket"),
    "no host": (dataset("mounts:\n  - mountPoint: http:///x"), 6, "mountPoint", "names no host", "https://host"),
    "bad port": (dataset("mounts:\n  - mountPoint: http://h:x/"), 6, "mountPoint", "is no URL", "https://host"),
    "fragment": (dataset("mounts:\n  - mountPoint: 'http://h/#x'"), 6, "mountPoint", "has a fragment", "%23"),
    "local relative": (
        dataset("mounts:\n  - mountPoint: local://srv/x"),
        6,
        "mountPoint",
        "no absolute directory",
        "three slashes",
    ),
    "local ..": (dataset("mounts:\n  - mountPoint: local:///srv/../x"), 6, "mountPoint", '".." part', "directory itself"),
    "control character": (
        dataset('mounts:\n  - mountPoint: "s3://bucket/\\0"'),
        6,
        "mountPoint",
        "control character",
        "remove it",
    ),
    "path with ..": (
        dataset("mounts:\n  - {mountPoint: 's3://bucket', path: /a/../b}"),
        6,
        "mounts[0].path",
        '".." part',
        "/data/raw",
    ),
    "relative path with ..": (
        dataset("mounts:\n  - {mountPoint: 's3://bucket', path: ../b}"),
        6,
        "mounts[0].path",
        '".." part',
        "absolute",
    ),
    "path with .": (
        dataset("mounts:\n  - {mountPoint: 's3://bucket', path: /a/./b}"),
        6,
        "mounts[0].path",
        '"." part',
        "/data/raw",
    ),
    "path with NUL": (
        dataset('mounts:\n  - {mountPoint: "s3://bucket", path: "/a\\0b"}'),
        6,
        "mounts[0].path",
        "NUL",
        "/data/raw",
    ),
    "path with a bell": (
        dataset('mounts:\n  - {mountPoint: "s3://bucket", path: "/a\\ab"}'),
        6,
        "mounts[0].path",
        "control",
        "/data/raw",
    ),
    "long part": (
        dataset(f"mounts:\n  - {{mountPoint: 's3://bucket', path: /{'x' * 256}}}"),
        6,
        "mounts[0].path",
        "255 bytes",
        "/data/raw",
    ),
    "name with ..": (
        dataset("mounts:\n  - {mountPoint: 's3://bucket', name: ..}"),
        6,
        "mounts[0].name",
        '".." part',
        "/data/raw",
    ),
    "no place": (
        dataset("mounts:\n  - {mountPoint: 's3://bucket'}\n  - {mountPoint: 's3://other', name: b}"),
        6,
        "mounts[0].name",
        "is missing",
        "path",
    ),
    "same twice": (
        dataset("mounts:\n  - {mountPoint: 's3://bucket', name: b}\n  - {mountPoint: 's3://bucket', path: /b}"),
        7,
        "mounts[1].mountPoint",
        "stands twice on one path",
        "remove one",
    ),
    "plain and encrypted": (
        dataset("""
            mounts:
              - mountPoint: s3://bucket
                options: {secret-key: x}
                encryptOptions:
                  - {name: secret-key, valueFrom: {secretKeyRef: {name: s, key: k}}}
            """),
        9,
        "encryptOptions[0]",
        "in the plain and in the encrypted options",
        "keep one",
    ),
    "shared plain and encrypted": (
        dataset("""
            sharedOptions: {token: x}
            mounts:
              - mountPoint: nfs://host/x
                encryptOptions:
                  - {name: token, valueFrom: {secretKeyRef: {name: s, key: k}}}
            """),
        9,
        "encryptOptions[0]",
        "in the plain and in the encrypted options",
        "keep one",
    ),
    "encrypted twice": (
        dataset("""
            sharedEncryptOptions:
              - {name: token, valueFrom: {secretKeyRef: {name: s, key: k}}}
              - {name: token, valueFrom: {secretKeyRef: {name: s, key: l}}}
            mounts: [{mountPoint: "nfs://host/x"}]
            """),
        7,
        "spec.sharedEncryptOptions[1].name",
        "stands twice",
        "keep one",
    ),
    "no reference": (
        dataset("sharedEncryptOptions:\n  - {name: token}\nmounts: [{mountPoint: 'nfs://h/x'}]"),
        6,
        "spec.sharedEncryptOptions[0].valueFrom.secretKeyRef",
        "is missing",
        "secretKeyRef",
    ),
    "no key": (
        dataset(
            "sharedEncryptOptions:\n  - {name: token, valueFrom: {secretKeyRef: {name: s}}}\nmounts: [{mountPoint: 'nfs://h/x'}]"
        ),
        6,
        "spec.sharedEncryptOptions[0].valueFrom.secretKeyRef.key",
        "is missing",
        "the key of the Secret",
    ),
    "no such key": (
        dataset(
            "sharedEncryptOptions:\n  - {name: token, valueFrom: {secretKeyRef: {name: s, key: tokn}}}\nmounts: [{mountPoint: 'nfs://h/x'}]"
        )
        + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {token: abc}\n",
        6,
        "secretKeyRef.key",
        '"tokn" is no key of Secret "s"',
        'did you mean "token"?',
    ),
    "encryptOptions under options": (
        dataset("mounts:\n  - mountPoint: s3://bucket\n    options:\n      encryptOptions:\n        - name: x"),
        9,
        "spec.mounts[0].options.encryptOptions",
        "is a list, not a string",
        "indented too far",
    ),
    "option as a number": (
        dataset("mounts:\n  - mountPoint: s3://bucket\n    options:\n      cache-size: 10240"),
        8,
        "options.cache-size",
        "10240 is an integer, not a string",
        '"10240"',
    ),
    "readOnly as a string": (
        dataset("mounts:\n  - {mountPoint: 's3://bucket', readOnly: 'true'}"),
        6,
        "readOnly",
        "is a string",
        "true or false",
    ),
    "mounts as a mapping": (dataset("mounts: {mountPoint: x}"), 5, "spec.mounts", "is a mapping, not a list", "write a list"),
    "access mode": (
        dataset("accessModes: [ReadOnlymany]\nmounts: [{mountPoint: 's3://bucket'}]"),
        5,
        "accessModes[0]",
        '"ReadOnlymany"',
        "Many",
    ),
    "placement": (dataset("placement: Together\n" + GOOD), 5, "spec.placement", '"Together" is none of', "Exclusive"),
    "owner": (dataset("owner: {uid: 1}\n" + GOOD), 5, "spec.owner.gid", "is missing", "add it"),
    "owner below 0": (
        dataset("owner: {uid: -1, gid: 1, user: u, group: g}\n" + GOOD),
        5,
        "spec.owner.uid",
        "-1 is no user",
        "write 0",
    ),
    "freshness": (
        dataset("mounts:\n  - mountPoint: s3://bucket\n    options: {forebay.io/freshness: sometimes}"),
        7,
        'options["forebay.io/freshness"]',
        '"sometimes" is no freshness',
        "ttl=60s",
    ),
    "freshness annotation": (
        dataset(GOOD, name="d, annotations: {forebay.io/freshness: ttl=60}"),
        3,
        "annotations",
        '"ttl=60" is no freshness',
        "60s",
    ),
    "floor": (
        dataset(GOOD, name="d, annotations: {forebay.io/free-space-floor: 20Gb}"),
        3,
        "annotations",
        '"20Gb" is no free',
        "15%,20Gi",
    ),
    "endpoint": (
        dataset("mounts:\n  - mountPoint: s3://bucket\n    options: {endpoint_url: 'ftp://h'}"),
        7,
        "options.endpoint_url",
        "no http(s)",
        "https",
    ),
    "reference beside others": (
        dataset("mounts:\n  - mountPoint: dataset://ns/x\n    name: a\n  - {mountPoint: 's3://bucket', name: b}"),
        6,
        "mountPoint",
        "beside other mounts",
        "Dataset of its own",
    ),
    "reference with ..": (
        dataset("mounts:\n  - mountPoint: dataset://ns/x/../y"),
        6,
        "mountPoint",
        "no reference",
        "dataset://namespace",
    ),
    "reference without a name": (
        dataset("mounts:\n  - mountPoint: dataset://ns"),
        6,
        "mountPoint",
        "no reference",
        "dataset://namespace",
    ),
    "reference to itself": (
        dataset("mounts:\n  - mountPoint: dataset://default/d"),
        6,
        "mountPoint",
        "to itself",
        "holds the data",
    ),
    "reference to a reference": (
        dataset("mounts:\n  - mountPoint: dataset://default/e")
        + "---\n"
        + dataset("mounts:\n  - mountPoint: dataset://ns/x", name="e"),
        6,
        "mountPoint",
        "reference to a reference",
        "holds the data",
    ),
    "no base64": (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: '***'}\n",
        4,
        "data.k",
        "is no base64",
        "stringData",
    ),
    "secret as a number": (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: 1}\n",
        4,
        "stringData.k",
        "not a string",
        "quotes",
    ),
    "class without component": (
        "apiVersion: data.fluid.io/v1alpha1\nkind: CacheRuntimeClass\nmetadata: {name: c}\nfileSystemType: x\n",
        1,
        "topology",
        "no component",
        "add",
    ),
    "class with a spec": (
        "apiVersion: data.fluid.io/v1alpha1\nkind: CacheRuntimeClass\nmetadata: {name: c}\nfileSystemType: x\nspec: {}\n",
        5,
        "spec",
        "is no field",
        "",
    ),
    "foo bar": (dataset("foo: bar"), 5, "spec.foo", "is no field of this kind", "docs/manifests.md"),
}
