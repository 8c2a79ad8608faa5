"""Objects that admission refuses by a rule, and changes that it refuses: (text or spec, words of the message).

They go beyond the bad manifests of `manifest_cases`: together both fire every rule of every CRD.
"""

from __future__ import annotations

import textwrap


def thing(kind: str, spec: str, *, group: str = "data.fluid.io", name: str = "x") -> str:
    """One document of a kind with a spec in block style."""
    head = f"apiVersion: {group}/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def level(fields: str, kind: str = "AlluxioRuntime") -> str:
    return thing(kind, f"tieredstore:\n  levels:\n    - {{mediumtype: SSD, {fields}}}")


def cache_level(fields: str, part: str = "worker") -> str:
    return thing("CacheRuntime", f"runtimeClassName: c\n{part}:\n  tieredStore:\n    levels:\n      - {{{fields}}}")


def cache_class(body: str) -> str:
    head = "apiVersion: data.fluid.io/v1alpha1\nkind: CacheRuntimeClass\nmetadata: {name: x}\nfileSystemType: f\n"
    return head + textwrap.dedent(body)


_POD = "template: {spec: {containers: [{name: a}]}}"
_SECRET = "{name: k, valueFrom: {secretKeyRef: {name: s, key: k}}}"
_ENDS = "from: {externalStorage: {uri: s3://b/x}}\nto: {dataset: {name: d, namespace: default}}"
_SCRIPT = "processor: {script: {source: x"

REFUSED: dict[str, tuple[str, str]] = {
    "name of a runtime": (thing("ThinRuntime", "{}", name="a.b"), "metadata.name is no DNS-1035"),
    "name of 64": (thing("Dataset", "{}", name="a" * 64), "metadata.name is no DNS-1035"),
    "second mount without a place": (
        thing("Dataset", "mounts: [{mountPoint: s3://b/x, name: a}, {mountPoint: s3://b/y, path: rel}]"),
        "mounts[].name is missing",
    ),
    "shared option twice": (
        thing("Dataset", f"sharedOptions: {{k: v}}\nsharedEncryptOptions: [{_SECRET}]"),
        "sharedEncryptOptions[].name stands in sharedOptions",
    ),
    "own option, shared secret": (
        thing("Dataset", f"sharedEncryptOptions: [{_SECRET}]\nmounts: [{{mountPoint: s3://b/x, options: {{k: v}}}}]"),
        "mounts[].options sets an option",
    ),
    "shared option, own secret": (
        thing("Dataset", f"sharedOptions: {{k: v}}\nmounts: [{{mountPoint: s3://b/x, encryptOptions: [{_SECRET}]}}]"),
        "mounts[].encryptOptions sets an option",
    ),
    "one secret option twice": (
        thing("Dataset", f"mounts: [{{mountPoint: s3://b/x, encryptOptions: [{_SECRET}, {_SECRET}]}}]"),
        "Duplicate value",
    ),
    "secret of an option without a key": (
        thing("Dataset", "mounts: [{mountPoint: s3://b/x, encryptOptions: [{name: k, valueFrom: {secretKeyRef: {name: s}}}]}]"),
        "valueFrom.secretKeyRef is missing",
    ),
    "control in a mount point": (thing("Dataset", 'mounts: [{mountPoint: "s3://b/x\\n"}]'), "mountPoint holds a control"),
    "control in a path": (thing("Dataset", 'mounts: [{mountPoint: s3://b/x, path: "/a\\t"}]'), "path holds a control"),
    "control in a name": (thing("Dataset", 'mounts: [{mountPoint: s3://b/x, name: "a\\x7f"}]'), "name holds a control"),
    "reference in capitals": (thing("Dataset", "mounts: [{mountPoint: DATASET://a}]"), "mountPoint is no reference"),
    "reference to an upper case name": (thing("Dataset", "mounts: [{mountPoint: dataset://a/B}]"), "is no reference"),
    "reference upwards": (thing("Dataset", "mounts: [{mountPoint: dataset://a/b/../c}]"), "mountPoint refers to a path"),
    "local without a slash": (thing("Dataset", "mounts: [{mountPoint: local://srv}]"), "names no absolute directory"),
    "local upwards": (thing("Dataset", "mounts: [{mountPoint: local:///srv/..}]"), "names no absolute directory"),
    "gid of nobody": (
        thing("Dataset", "owner: {uid: 1, gid: 4294967295, user: u, group: g}"),
        "gid is no group id",
    ),
    "ratio of words": (level("path: /c, quota: 1Gi, high: most"), "high is no ratio"),
    "ratio of percent": (level("path: /c, quota: 1Gi, low: '70'"), "low is no ratio"),
    "ratio of JuiceFS": (level("path: /c, low: '2'", "JuiceFSRuntime"), "low is no ratio"),
    "low above high": (level("path: /c, quota: 1Gi, high: '0.5', low: '.7'"), "low is not below high"),
    "negative quota": (level("path: /c, quota: -1Gi"), "quota is not positive"),
    "quota of nothing": (level("path: /c, quota: 0Gi"), "quota is not positive"),
    "quota of zero as a number": (level("path: /c, quota: 0"), "quota is not positive"),
    "quotaList of nothing": (level("path: '/c,/d', quotaList: '1Gi,0.0Gi'"), "quotaList holds a quota that is not positive"),
    "negative quotaList": (level("path: '/c,/d', quotaList: '1Gi,-1Gi'"), "quotaList is no list"),
    "quotaList of JuiceFS": (
        level("path: '/c:/d', quotaList: '1Gi,1Gi,1Gi'", "JuiceFSRuntime"),
        "quotaList has not as many",
    ),
    "blank between directories": (level("path: '/c, /d', quota: 1Gi"), "path is no absolute directory"),
    "relative directory of JuiceFS": (level("path: '/c:d'", "JuiceFSRuntime"), "path is no absolute directory"),
    "second directory upwards": (level("path: '/c,/d/../e', quota: 1Gi"), 'path holds a "." or ".." part'),
    "quotaList without directories": (level("quotaList: '1Gi,2Gi'"), "quotaList has not as many"),
    "two levels in one directory": (
        thing(
            "EFCRuntime",
            "tieredstore: {levels: [{mediumtype: SSD, path: /c, quota: 1Gi}, {mediumtype: HDD, path: /c, quota: 1Gi}]}",
        ),
        "levels[].path is the directory of two levels",
    ),
    "low above high in a cache": (
        cache_level("processMemory: {quota: 1Gi}, high: '0.5', low: '0.5'"),
        "low is not below high",
    ),
    "high of a client": (cache_level("processMemory: {quota: 1Gi}, high: '1.5'", "client"), "high is no ratio"),
    "low of a cache": (cache_level("emptyDir: {quota: 1Gi}, low: x"), "low is no ratio"),
    "no medium in a client": (cache_level("high: '0.9'", "client"), "levels[] names no medium"),
    "memory twice": (
        cache_level("processMemory: {quota: 1Gi}}\n      - {processMemory: {quota: 1Gi}"),
        "levels[].processMemory stands in two levels",
    ),
    "quotas and paths": (cache_level("hostPath: {paths: [/a, /b], quotas: [1Gi]}"), "quotas has not as many"),
    "relative path of a cache": (cache_level("hostPath: {paths: [a], quotas: [1Gi]}"), "paths[] holds what is no absolute"),
    "path of a cache upwards": (cache_level("hostPath: {paths: [/a/..], quotas: [1Gi]}"), "paths[] holds what is no absolute"),
    "post start in a profile": (
        thing("ThinRuntimeProfile", "fileSystemType: f\nfuse: {lifecycle: {postStart: {exec: {command: [x]}}}}"),
        "postStart is refused",
    ),
    "scrape nothing known": (thing("JindoRuntime", "fuse: {metrics: {scrapeTarget: 'All,'}}"), "scrapeTarget names"),
    "class without topology": (cache_class(""), "topology has no component"),
    "class without template": (cache_class("topology: {worker: {options: {a: b}}}"), "template.spec.containers is empty"),
    "class without container": (
        cache_class("topology: {client: {template: {spec: {containers: []}}}}"),
        "template.spec.containers is empty",
    ),
    **{
        f"class uses what it lacks in {part}": (
            cache_class(f"topology: {{{part}: {{{_POD}, dependencies: {{extraResources: {{configMaps: [{{name: c}}]}}}}}}}}"),
            f"topology.{part}.dependencies.extraResources.configMaps[].name is not defined",
        )
        for part in ("master", "worker", "client")
    },
    "load nothing": (thing("DataLoad", "loadMetadata: true"), "dataset is missing"),
    "schedule of four fields": (thing("DataLoad", "dataset: {name: d}\npolicy: Cron\nschedule: '* * * *'"), "is no cron"),
    "cron of nothing": (thing("DataProcess", f"policy: Cron\ndataset: {{name: d, mountPath: /d}}\n{_SCRIPT}}}}}"), "schedule is"),
    **{
        f"{kind} after itself": (thing(kind, f"{spec}\nrunAfter: {{kind: {kind}, name: x}}"), "spec.runAfter names the operation")
        for kind, spec in {
            "DataLoad": "dataset: {name: d}",
            "DataMigrate": _ENDS,
            "DataBackup": "dataset: d\nbackupPath: pvc://c/x",
            "DataProcess": f"dataset: {{name: d, mountPath: /d}}\n{_SCRIPT}}}}}",
        }.items()
    },
    "migrate to both": (
        thing("DataMigrate", _ENDS.replace("to: {", "to: {externalStorage: {uri: s3://b/y}, ")),
        "dataset and externalStorage are both",
    ),
    "migrate from neither": (
        thing("DataMigrate", "from: {}\nto: {dataset: {name: d, namespace: default}}"),
        "dataset and externalStorage are both",
    ),
    "migrate to a path": (
        thing("DataMigrate", "from: {dataset: {name: d, namespace: n}}\nto: {externalStorage: {uri: /x}}"),
        "uri has no scheme",
    ),
    "parallel without a key": (thing("DataMigrate", f"{_ENDS}\nparallelism: 2\nparallelOptions: {{a: b}}"), "sshSecretName is"),
    "back up nothing": (thing("DataBackup", "backupPath: pvc://c/x"), "dataset is missing"),
    "back up nowhere": (thing("DataBackup", "dataset: d"), "backupPath is missing"),
    "process by nothing": (
        thing("DataProcess", "dataset: {name: d, mountPath: /d}\nprocessor: {}"),
        "neither a job nor a script",
    ),
    "process at a relative path": (
        thing("DataProcess", f"dataset: {{name: d, mountPath: d}}\n{_SCRIPT}}}}}"),
        "mountPath is not absolute",
    ),
    "script mounts there": (
        thing("DataProcess", f"dataset: {{name: d, mountPath: /d}}\n{_SCRIPT}, volumeMounts: [{{name: v, mountPath: /d}}]}}}}"),
        "processor.script mounts something already",
    ),
    **{
        f"job mounts there in {containers}": (
            thing(
                "DataProcess",
                "dataset: {name: d, mountPath: /d}\nprocessor: {job: {podSpec: {"
                f"{containers}: [{{name: a, image: i, volumeMounts: [{{name: v, mountPath: /d/, readOnly: true}}]}}]"
                f"{', containers: [{name: b}]' if containers != 'containers' else ''}}}}}}}",
            ),
            f"processor.job.podSpec.{containers}[] mounts something already",
        )
        for containers in ("containers", "initContainers")
    },
    "grant to nobody": (thing("DatasetGrant", "dataset: d\nnamespaces: []", group="forebay.io"), "namespaces is empty"),
    "grant of a relative path": (
        thing("DatasetGrant", "dataset: d\nnamespaces: [a]\npaths: [train]", group="forebay.io"),
        "paths[] is not absolute",
    ),
    "grant upwards": (
        thing("DatasetGrant", "dataset: d\nnamespaces: [a]\npaths: [/train/../x]", group="forebay.io"),
        "paths[] is not absolute",
    ),
}

ACCEPTED: dict[str, str] = {
    "no spec": "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: x}\n",
    "empty runtime": thing("AlluxioRuntime", "{}"),
    "no workers": thing("JindoRuntime", "replicas: 0"),
    "nulls": thing("EFCRuntime", "worker:\ntieredstore:\n  levels:\n"),
    "name of 63": thing("Dataset", "{}", name="a" * 63),
    "dots in names": thing("Dataset", "mounts: [{mountPoint: s3://b/x, path: /..a/b..c/...}]"),
    "relative path": thing("Dataset", "mounts: [{mountPoint: s3://b/x, path: a/./b, name: n}]"),
    "reference with a path": thing("Dataset", "mounts: [{mountPoint: dataset://team-a/lake.v2/a/b}]"),
    "two unions": thing("Dataset", "mounts: [{mountPoint: s3://b/x, path: /}, {mountPoint: s3://b/y, path: /}]"),
    "ratios": level("path: /c, quota: 1Gi, high: '1', low: '.5'"),
    "ratios of JuiceFS": level("path: '/c:/d', high: '0.1', low: '0.9'", "JuiceFSRuntime"),
    "quota of a number": level("path: /c, quota: 1073741824"),
    "quota of an exponent": level("path: /c, quota: 1e9"),
    "list of quotas": level("path: '/c,/d,/e', quotaList: '1Gi,1.5G,2e9'"),
    "list of quotas for JuiceFS": level("path: '/c:/d,/e', quotaList: '1Gi,1Gi,1Gi'", "JuiceFSRuntime"),
    "slash at the end": level("path: /var/cache/, quota: 1Gi"),
    "volume source that Fluid ignores": level("path: /c, quota: 1Gi, volumeSource: {emptyDir: {}}"),
    "volume source": level("path: /c, quota: 1Gi, volumeType: emptyDir, volumeSource: {emptyDir: {medium: Memory}}"),
    "volumes of any kind": thing("AlluxioRuntime", "volumes: [{name: a, csi: {driver: d, new: {field: 1}}}, {name: b}]"),
    "tolerations": thing("Dataset", "tolerations: [{key: k, operator: Exists, tolerationSeconds: 3}]"),
    "two media": cache_level("processMemory: {quota: 1Gi}}\n      - {hostPath: {paths: [/a, /b], quotas: [1Gi, 2Gi]}"),
    "class of one component": cache_class(f"topology: {{worker: {{{_POD}}}}}"),
    "class with its own ConfigMap": cache_class(
        "extraResources: {configMaps: [{name: c, data: {a: b}}]}\n"
        f"topology: {{client: {{{_POD}, dependencies: {{extraResources: {{configMaps: [{{name: c, mountPath: /e}}]}}}}}}}}"
    ),
    "cron with a zone": thing("DataLoad", "dataset: {name: d}\npolicy: Cron\nschedule: 'CRON_TZ=UTC 0 1 * * 1-5'"),
    "cron by word": thing("DataLoad", "dataset: {name: d}\npolicy: Cron\nschedule: '@daily'"),
    "event": thing("DataLoad", "dataset: {name: d}\npolicy: OnEvent"),
    "after its namesake of another kind": thing("DataLoad", "dataset: {name: d}\nrunAfter: {kind: DataBackup, name: x}"),
    "after its namesake elsewhere": thing("DataLoad", "dataset: {name: d}\nrunAfter: {kind: DataLoad, name: x, namespace: y}"),
    "parallel": thing("DataMigrate", f"{_ENDS}\nparallelism: 2\nparallelOptions: {{sshSecretName: s}}"),
    "other mounts in a job": thing(
        "DataProcess",
        "dataset: {name: d, mountPath: /d}\nprocessor: {job: {podSpec: {containers: ["
        "{name: a, volumeMounts: [{name: v, mountPath: /data}, {name: w, mountPath: /d/x}]}], hostNetwork: true}}}",
    ),
    "grant to all": thing("DatasetGrant", "dataset: d\nnamespaceSelector: {}", group="forebay.io"),
    "grant to some": thing(
        "DatasetGrant", "dataset: d\nnamespaces: [a, b]\npaths: [/x, /y/z]\nexpires: '2027-01-01T00:00:00Z'", group="forebay.io"
    ),
}

CHANGES: dict[str, tuple[str, str, str]] = {
    "class of a runtime": (
        thing("CacheRuntime", "runtimeClassName: a"),
        thing("CacheRuntime", "runtimeClassName: b"),
        "runtimeClassName cannot be changed",
    ),
    "dataset of a load": (
        thing("DataLoad", "dataset: {name: a}"),
        thing("DataLoad", "dataset: {name: b}"),
        "dataset cannot be changed",
    ),
    "policy": (
        thing("DataLoad", "dataset: {name: a}"),
        thing("DataLoad", "dataset: {name: a}\npolicy: Cron\nschedule: '@daily'"),
        "policy cannot be changed",
    ),
    "end of a migration": (
        thing("DataMigrate", _ENDS),
        thing("DataMigrate", _ENDS.replace("s3://b/x", "s3://b/y")),
        "from and to cannot be changed",
    ),
    "dataset of a backup": (
        thing("DataBackup", "dataset: a\nbackupPath: pvc://c/x"),
        thing("DataBackup", "dataset: b\nbackupPath: pvc://c/x"),
        "dataset cannot be changed",
    ),
    "place of a backup": (
        thing("DataBackup", "dataset: a\nbackupPath: pvc://c/x"),
        thing("DataBackup", "dataset: a\nbackupPath: pvc://c/y"),
        "backupPath cannot be changed",
    ),
    "dataset of a process": (
        thing("DataProcess", f"dataset: {{name: a, mountPath: /d}}\n{_SCRIPT}}}}}"),
        thing("DataProcess", f"dataset: {{name: a, mountPath: /e}}\n{_SCRIPT}}}}}"),
        "dataset cannot be changed",
    ),
    "dataset of a grant": (
        thing("DatasetGrant", "dataset: a\nnamespaces: [n]", group="forebay.io"),
        thing("DatasetGrant", "dataset: b\nnamespaces: [n]", group="forebay.io"),
        "dataset cannot be changed",
    ),
}
