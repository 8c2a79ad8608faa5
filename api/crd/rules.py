"""What admission refuses beyond types: CEL rules of the CRDs, by kind and place.

These are the findings of `rules.py`, `dataset.py` and `tiers.py` that one object shows by itself and that Fluid reports only
while it reconciles. A rule sees nothing of other objects and no namespace (the webhook does). The API server refuses a CRD
with a rule whose estimated cost is above 10,000,000, all its rules above 100,000,000. What counts is the longest list times the
longest string (4 bytes a character, 3 MiB where nothing bounds it), hence the bounds in the tables.

Every message begins with the field and ends with the remedy. `namespace` is a reserved word of CEL: `__namespace__`.
"""

from __future__ import annotations

import msgspec

from forebay.api.fluid import kinds as fluid
from forebay.api.fluid.blocks import OPERATIONS

CLASSIC = tuple(kind for kind in fluid.RUNTIMES if kind != "CacheRuntime")
LEVEL = "spec.tieredstore.levels[]"


class Rule(msgspec.Struct, frozen=True):
    """`field`: the member of the object that is to blame (".path"), for the error's own field; "" where none is."""

    rule: str
    message: str
    field: str = ""


class At(msgspec.Struct, frozen=True):
    """Rules of one place: `spec.mounts[]` is an item of the list, "" the whole object."""

    kinds: tuple[str, ...]
    path: str
    rules: tuple[Rule, ...]


def frozen(name: str, remedy: str = "make a new object") -> Rule:
    """A member of an object that cannot be changed once it is set, nor be added or removed."""
    same = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
    return Rule(same, f"{name} cannot be changed; {remedy}", f".{name}")


# --- names ----------------------------------------------------------------------------------------------------------

_NAME = Rule(
    "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "metadata.name is no DNS-1035 label; use at most 63 of a-z, 0-9 and -, beginning with a letter, "
    "ending with a letter or digit",
)

# --- Dataset --------------------------------------------------------------------------------------------------------

_REFERENCE = "self.mounts.exists(m, m.mountPoint.lowerAscii().startsWith('dataset://'))"
_DATASET_SPEC = (
    Rule(
        "!has(self.mounts) || size(self.mounts) < 2 || "
        "self.mounts.all(m, (has(m.name) && m.name != '') || (has(m.path) && m.path.startsWith('/')))",
        "mounts[].name is missing, and so is an absolute path; give every mount a name, or a path such as /data",
        ".mounts",
    ),
    Rule(
        f"!has(self.mounts) || size(self.mounts) == 1 || !{_REFERENCE}",
        "mounts[] holds a reference (dataset://) beside other mounts; give the reference a Dataset of its own",
        ".mounts",
    ),
    Rule(
        "!has(self.sharedOptions) || !has(self.sharedEncryptOptions) || "
        "self.sharedEncryptOptions.all(e, !(e.name in self.sharedOptions))",
        "sharedEncryptOptions[].name stands in sharedOptions too; keep one of the two, a credential here",
        ".sharedEncryptOptions",
    ),
    Rule(
        "!has(self.mounts) || !has(self.sharedEncryptOptions) || self.mounts.all(m, !has(m.options) || "
        "self.sharedEncryptOptions.all(e, !(e.name in m.options)))",
        "mounts[].options sets an option that stands in sharedEncryptOptions; keep one of the two, a credential there",
        ".mounts",
    ),
    Rule(
        "!has(self.mounts) || !has(self.sharedOptions) || self.mounts.all(m, !has(m.encryptOptions) || "
        "m.encryptOptions.all(e, !(e.name in self.sharedOptions)))",
        "mounts[].encryptOptions sets an option that stands in sharedOptions; keep one of the two, a credential there",
        ".mounts",
    ),
)
_DOTS = "(^|/)[.][.]?(/|$)"
_MOUNT = (
    *(
        Rule(
            f"!has(self.{name}) || !self.{name}.matches('[[:cntrl:]]')",
            f"{name} holds a control character; remove it (a line break at the end is a common cause)",
            f".{name}",
        )
        for name in ("mountPoint", "path", "name")
    ),
    Rule(
        f"!has(self.path) || !self.path.startsWith('/') || !self.path.matches('{_DOTS}')",
        'path holds a "." or ".." part; write the path without it',
        ".path",
    ),
    Rule(
        "!has(self.path) || self.path.startsWith('/') || !self.path.matches('(^|/)[.][.](/|$)')",
        'path is not absolute and holds a ".." part; write an absolute path without it',
        ".path",
    ),
    Rule(
        f"!has(self.name) || (has(self.path) && self.path.startsWith('/')) || !self.name.matches('{_DOTS}')",
        'name holds a "." or ".." part; write a plain name',
        ".name",
    ),
    Rule(
        "!has(self.options) || !has(self.encryptOptions) || self.encryptOptions.all(e, !(e.name in self.options))",
        "encryptOptions[].name stands in options too; keep one of the two, a credential here",
        ".encryptOptions",
    ),
    Rule(
        "!self.mountPoint.lowerAscii().startsWith('dataset://') || self.mountPoint.substring(10)"
        ".matches('^[a-z0-9][-a-z0-9]*/[a-z0-9][-a-z0-9.]*(/|$)')",
        "mountPoint is no reference to a dataset; write dataset://namespace/name or dataset://namespace/name/path",
        ".mountPoint",
    ),
    Rule(
        f"!self.mountPoint.lowerAscii().startsWith('dataset://') || !self.mountPoint.substring(10).matches('{_DOTS}')",
        'mountPoint refers to a path with a "." or ".." part; write the path without it',
        ".mountPoint",
    ),
    Rule(
        "!self.mountPoint.lowerAscii().startsWith('local://') || "
        "(self.mountPoint.substring(8).startsWith('/') && !self.mountPoint.matches('/[.][.](/|$)'))",
        'mountPoint names no absolute directory, or one with a ".." part; write local:///directory, with three slashes',
        ".mountPoint",
    ),
)
_ENCRYPT = Rule(
    "has(self.valueFrom) && has(self.valueFrom.secretKeyRef) && self.valueFrom.secretKeyRef.name != '' && "
    "has(self.valueFrom.secretKeyRef.key) && self.valueFrom.secretKeyRef.key != ''",
    "valueFrom.secretKeyRef is missing or without a key; name the Secret and the key that hold the value",
)
_OWNER = (
    Rule("self.uid >= 0 && self.uid < 4294967295", "uid is no user id; write 0 to 4294967294", ".uid"),
    Rule("self.gid >= 0 && self.gid < 4294967295", "gid is no group id; write 0 to 4294967294", ".gid"),
)

# --- tiers ----------------------------------------------------------------------------------------------------------

_RATIO_FORM = "^([0-9]*[.]?[0-9]+|[0-9]+[.])$"


def _ratio(name: str) -> Rule:
    """A ratio as a string, as `tiers.py` takes it; `double()` runs only on what the pattern let through."""
    return Rule(
        f"!has(self.{name}) || (self.{name}.matches('{_RATIO_FORM}') && double(self.{name}) > 0.0 && double(self.{name}) <= 1.0)",
        f'{name} is no ratio above 0 and at most 1; write one as a string, such as "0.95"',
        f".{name}",
    )


_WATERMARKS = (_ratio("high"), _ratio("low"))
_LOW_BELOW_HIGH = Rule(
    f"!has(self.high) || !has(self.low) || !self.high.matches('{_RATIO_FORM}') || !self.low.matches('{_RATIO_FORM}') || "
    "double(self.low) < double(self.high)",
    "low is not below high; write a low that is smaller than high",
    ".low",
)
_SOME_QUOTA = Rule(
    "has(self.quota) || has(self.quotaList)", "quota is missing, and so is quotaList; give one, such as quota: 20Gi"
)
_NUMBER = r"[+]?([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?"
_NOTHING = "[+]?[0.]+([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?"
_QUOTA_LIST = (
    Rule(
        f"!has(self.quotaList) || self.quotaList.matches('^{_NUMBER}(,{_NUMBER})+$')",
        "quotaList is no list of two or more quantities; write such as 40Gi,60Gi without blanks, or quota for a single path",
        ".quotaList",
    ),
    Rule(
        f"!has(self.quotaList) || !self.quotaList.matches('(^|,){_NOTHING}(,|$)')",
        "quotaList holds a quota that is not positive; write sizes above 0",
        ".quotaList",
    ),
)


def _paths(separator: str) -> tuple[Rule, ...]:
    """Rules of `path`: absolute directories, as many as quotaList has entries. `separator` is a class of RE2."""
    split = "self.path.replace(':', ',').split(',')" if ":" in separator else "self.path.split(',')"
    return (
        Rule(
            f"!has(self.path) || self.path.matches('^(/[^,{separator}]*[^/,{separator}][^,{separator}]*)"
            f"([,{separator}]/[^,{separator}]*[^/,{separator}][^,{separator}]*)*$')",
            "path is no absolute directory or comma list of them; write such as /var/cache/a,/var/cache/b",
            ".path",
        ),
        Rule(
            f"!has(self.path) || !self.path.matches('(^|[/,{separator}])[.][.]?([/,{separator}]|$)')",
            'path holds a "." or ".." part; write the directory without it',
            ".path",
        ),
        Rule(
            f"!has(self.quotaList) || (has(self.path) && size(self.quotaList.split(',')) == size({split}))",
            "quotaList has not as many quantities as path has directories; give one for each",
            ".quotaList",
        ),
    )


_POSITIVE = Rule(
    "!has(self.quota) || (type(self.quota) == int ? int(self.quota) > 0 : quantity(self.quota).isGreaterThan(quantity('0')))",
    "quota is not positive; write a size above 0, such as 1Gi",
    ".quota",
)
_OWN_PATHS = Rule(
    "!has(self.levels) || self.levels.all(l, !has(l.path) || "
    "self.levels.exists_one(other, has(l.path) && has(other.path) && other.path == l.path))",
    "levels[].path is the directory of two levels; give each level its own",
    ".levels",
)
_LEVEL = (*_WATERMARKS, *_QUOTA_LIST, _POSITIVE)
_CACHE_LEVEL = (
    *_WATERMARKS,
    _LOW_BELOW_HIGH,
    Rule(
        "(has(self.processMemory) ? 1 : 0) + (has(self.emptyDir) ? 1 : 0) + (has(self.hostPath) ? 1 : 0) == 1",
        "levels[] names no medium, or several; give exactly one of processMemory, emptyDir and hostPath",
    ),
)
_CACHE_STORE = Rule(
    "!has(self.levels) || size(self.levels.filter(l, has(l.processMemory))) < 2",
    "levels[].processMemory stands in two levels; keep one",
    ".levels",
)
_HOST_PATH = (
    Rule("size(self.paths) == size(self.quotas)", "quotas has not as many entries as paths; give one for each", ".quotas"),
    Rule(
        f"self.paths.all(p, p.matches('^/+[^/]') && !p.matches('{_DOTS}'))",
        "paths[] holds what is no absolute directory; write such as /var/cache/nvme0",
        ".paths",
    ),
)

# --- other runtimes -------------------------------------------------------------------------------------------------

_TARGET = " *(MountPod|Sidecar|All|None) *"
_SCRAPE = Rule(
    f"!has(self.scrapeTarget) || self.scrapeTarget.matches('^{_TARGET}(,{_TARGET})*$')",
    "scrapeTarget names an unknown target; write a comma list of MountPod, Sidecar, All, None",
    ".scrapeTarget",
)
_LIFECYCLE = Rule("!has(self.postStart)", "postStart is refused by Fluid; start it from the container's command", ".postStart")
_ONE_COMPONENT = Rule(
    "has(self.topology) && (has(self.topology.master) || has(self.topology.worker) || has(self.topology.client))",
    "topology has no component; add at least one of master, worker, client",
)
_CONTAINER = Rule(
    "has(self.template) && has(self.template.spec) && size(self.template.spec.containers) > 0",
    "template.spec.containers is empty; add the container that runs the engine",
)


def _defined(component: str) -> Rule:
    deep = f"self.topology.{component}"
    chain = f"has(self.topology) && has({deep}) && has({deep}.dependencies) && has({deep}.dependencies.extraResources)"
    used = f"{deep}.dependencies.extraResources.configMaps"
    return Rule(
        f"!({chain} && has({used})) || {used}.all(u, has(self.extraResources) && has(self.extraResources.configMaps) && "
        "self.extraResources.configMaps.exists(d, has(d.name) && d.name == u.name))",
        f"topology.{component}.dependencies.extraResources.configMaps[].name is not defined; "
        "define it in extraResources.configMaps",
    )


# --- data operations ------------------------------------------------------------------------------------------------

_CRON = r"^((CRON_)?TZ=[^ ]+ )?(@(yearly|annually|monthly|weekly|daily|midnight|hourly|every [^ ]+)|[^ ]+( +[^ ]+){4})$"
_SCHEDULE = (
    Rule(
        "!has(self.policy) || self.policy != 'Cron' || (has(self.schedule) && self.schedule != '')",
        'schedule is missing, which policy Cron needs; add one, such as "15 2 * * *"',
    ),
    Rule(
        f"!has(self.schedule) || self.schedule == '' || self.schedule.trim().matches('{_CRON}')",
        'schedule is no cron schedule; write five fields, such as "15 2 * * *"',
        ".schedule",
    ),
    frozen("policy", "make a new operation"),
)
_LOAD = (
    Rule("has(self.dataset)", "dataset is missing; name the dataset to load"),
    frozen("dataset", "make a new operation"),
)
_DATASET_NAMED = Rule("has(self.dataset) && size(self.dataset) > 0", "dataset is missing; name the dataset to work on")


def _not_after_itself(kind: str) -> Rule:
    before = "self.spec.runAfter"
    return Rule(
        f"!has(self.spec) || !has({before}) || {before}.kind != '{kind}' || {before}.name != self.metadata.name || "
        f"(has({before}.__namespace__) && {before}.__namespace__ != '')",
        "spec.runAfter names the operation itself; name the one that must end before it",
    )


_ONE_END = Rule(
    "has(self.dataset) != has(self.externalStorage)",
    "dataset and externalStorage are both missing, or both given; give exactly one of the two",
)
_MIGRATE = (
    Rule(
        "has(self.from.dataset) || has(self.to.dataset)",
        "from and to are two external storages; make one of them a dataset",
    ),
    Rule(
        "!has(self.parallelism) || self.parallelism == 1 || (has(self.parallelOptions) && "
        "'sshSecretName' in self.parallelOptions && self.parallelOptions['sshSecretName'] != '')",
        "parallelOptions.sshSecretName is missing, which parallelism needs; name the Secret with the workers' key pair",
    ),
    Rule("self.from == oldSelf.from && self.to == oldSelf.to", "from and to cannot be changed; make a new operation"),
)
_URI = Rule(
    "self.uri.matches('^[A-Za-z0-9][A-Za-z0-9+._-]*://')",
    "uri has no scheme; write one such as s3://bucket/prefix/ or pvc://claim/path",
    ".uri",
)
_BACKUP = (
    Rule(
        "has(self.backupPath) && self.backupPath.lowerAscii().matches('^(pvc|local)://.')",
        "backupPath is missing or has an unsupported scheme; write pvc://claim/path or local:///path",
    ),
    frozen("dataset", "make a new operation"),
    frozen("backupPath", "make a new operation"),
)
_PROCESSOR = Rule("has(self.job) != has(self.script)", "processor has neither a job nor a script, or both; give exactly one")
_DATA = "self.dataset.mountPath"
_FREE = f"v.mountPath != {_DATA} && v.mountPath != {_DATA} + '/'"
_SCRIPT = "self.processor.script"
_POD = "self.processor.job.podSpec"


def _unmounted(containers: str) -> Rule:
    """No container of a job mounts something at the dataset's path."""
    return Rule(
        f"!has(self.processor.job) || !has({_POD}) || !has({_POD}.{containers}) || {_POD}.{containers}.all(c, "
        f"!has(c.volumeMounts) || c.volumeMounts.all(v, !has(v.mountPath) || ({_FREE})))",
        f"dataset.mountPath is a path where processor.job.podSpec.{containers}[] mounts something already; choose another",
    )


_PROCESS = (
    Rule(
        f"!has({_SCRIPT}) || !has({_SCRIPT}.volumeMounts) || {_SCRIPT}.volumeMounts.all(v, {_FREE})",
        "dataset.mountPath is a path where processor.script mounts something already; choose another path",
    ),
    _unmounted("containers"),
    _unmounted("initContainers"),
    Rule("self.dataset == oldSelf.dataset", "dataset cannot be changed; make a new operation"),
)
_MOUNT_PATH = Rule("self.mountPath.startsWith('/')", "mountPath is not absolute; write one such as /data", ".mountPath")

# --- our own kinds --------------------------------------------------------------------------------------------------

_GRANT = (
    Rule(
        "(has(self.namespaces) && size(self.namespaces) > 0) || has(self.namespaceSelector)",
        "namespaces is empty, and so is namespaceSelector; name who may refer to the dataset, or write namespaceSelector: {}",
    ),
    Rule(
        f"!has(self.paths) || self.paths.all(p, p.startsWith('/') && !p.matches('{_DOTS}'))",
        'paths[] is not absolute or holds a "." or ".." part; write such as /train',
        ".paths",
    ),
    Rule("self.dataset == oldSelf.dataset", "dataset cannot be changed; make a new grant", ".dataset"),
)

RULES: tuple[At, ...] = (
    At(("Dataset", *fluid.RUNTIMES), "", (_NAME,)),
    At(("Dataset",), "spec", _DATASET_SPEC),
    At(("Dataset",), "spec.mounts[]", _MOUNT),
    At(("Dataset",), "spec.mounts[].encryptOptions[]", (_ENCRYPT,)),
    At(("Dataset",), "spec.sharedEncryptOptions[]", (_ENCRYPT,)),
    At(("Dataset",), "spec.owner", _OWNER),
    *(At((kind,), "spec.tieredstore", (_OWN_PATHS,)) for kind in CLASSIC),
    *(At((kind,), LEVEL, _LEVEL) for kind in CLASSIC),
    *(At((kind,), LEVEL, (_SOME_QUOTA, _LOW_BELOW_HIGH, *_paths(""))) for kind in CLASSIC if kind != "JuiceFSRuntime"),
    # JuiceFS has a quota of its own, takes `low` for its free-space ratio and separates directories by colons too
    At(("JuiceFSRuntime",), LEVEL, _paths(":")),
    At(("JindoRuntime",), "spec.fuse.metrics", (_SCRAPE,)),
    At(("ThinRuntime", "ThinRuntimeProfile"), "spec.fuse.lifecycle", (_LIFECYCLE,)),
    At(
        ("CacheRuntime",),
        "spec",
        (
            Rule(
                "self.runtimeClassName == oldSelf.runtimeClassName",
                "runtimeClassName cannot be changed; make a new CacheRuntime",
                ".runtimeClassName",
            ),
        ),
    ),
    *(
        At(("CacheRuntime",), f"spec.{part}.tieredStore{deeper}", rules)
        for part in ("worker", "client")
        for deeper, rules in (("", (_CACHE_STORE,)), (".levels[]", _CACHE_LEVEL), (".levels[].hostPath", _HOST_PATH))
    ),
    At(("CacheRuntimeClass",), "", (_ONE_COMPONENT, *map(_defined, ("master", "worker", "client")))),
    *(At(("CacheRuntimeClass",), f"topology.{part}", (_CONTAINER,)) for part in ("master", "worker", "client")),
    *(At((kind,), "", (_not_after_itself(kind),)) for kind in OPERATIONS),
    At(("DataLoad", "DataMigrate", "DataProcess"), "spec", _SCHEDULE),
    At(("DataLoad",), "spec", _LOAD),
    At(("DataMigrate",), "spec", _MIGRATE),
    *(At(("DataMigrate",), f"spec.{end}", (_ONE_END,)) for end in ("from", "to")),
    *(At(("DataMigrate",), f"spec.{end}.externalStorage", (_URI,)) for end in ("from", "to")),
    At(("DataBackup",), "spec", (_DATASET_NAMED, *_BACKUP)),
    At(("DataProcess",), "spec", _PROCESS),
    At(("DataProcess",), "spec.dataset", (_MOUNT_PATH,)),
    At(("DataProcess",), "spec.processor", (_PROCESSOR,)),
    At(("DatasetGrant",), "spec", _GRANT),
)


def rules_of(kind: str, path: str) -> list[Rule]:
    """The rules of one place of one kind, in the order of `RULES`."""
    return [rule for at in RULES if kind in at.kinds and at.path == path for rule in at.rules]
