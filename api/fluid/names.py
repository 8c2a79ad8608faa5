"""Names, labels and annotations that Fluid's users select by, and the one way to keep derived names within their limits.

Source: fluid-cloudnative/fluid a826600a. What is joined from namespace and name there (`a-b/c` and `a/b-c` give one) is
kept for node and pod labels, where a clash only blurs a preference; names of objects and volumes are told apart.
"""

from __future__ import annotations

import base64
import hashlib
import re

LABEL_MAX = 63
SERVICE_MAX = 63
STATEFULSET_MAX = 52
"""A pod of it carries `<name>-<hash of 10>` and `<name>-<ordinal>` as label values."""
OBJECT_MAX = 253

ENGINE_ANNOTATION = "forebay.io/engine"
"""Annotation of a Dataset, a runtime or a Namespace: `native`, or the name of an engine."""
NATIVE = "native"
CACHE_BYTES = "forebay.io/cache-bytes"
"""A resource of quotas; on a pod an annotation: bytes of cache that it keeps on its node."""

DATASET_ID = "fluid.io/dataset-id"
DATASET = "fluid.io/dataset"
PLACEMENT = "fluid.io/dataset-placement"
MANAGED_BY = "fluid.io/managed-by"
REFERRING_NAME = "fluid.io/dataset.referring-name"
REFERRING_NAMESPACE = "fluid.io/dataset.referring-namespace"
PUBLISH_METHOD = "fluid.io/node-publish-method"
SKIP_CHECK = "fluid.io/skip-check-mount-ready-target"
METADATA_LIST = "data.fluid.io/metadataList"
CLAIM_SIZE = "pvc.fluid.io/resources.requests.storage"
CREATED_BY = {"CreatedBy": "fluid"}

DATASET_FINALIZER = "fluid-dataset-controller-finalizer"

TYPES = {
    "AlluxioRuntime": "alluxio",
    "JindoRuntime": "jindo",
    "JuiceFSRuntime": "juicefs",
    "ThinRuntime": "thin",
    "EFCRuntime": "efc",
    "VineyardRuntime": "vineyard",
    "CacheRuntime": "cache",
}
"""Runtime kind -> what Fluid calls it in paths, labels and `status.runtimes`."""

_MARKED = re.compile(r"-x[a-z2-7]{10}\Z")
_MARK = 12


def runtime_finalizer(kind: str) -> str:
    return f"{TYPES[kind]}-runtime-controller-finalizer"


def operation_finalizer(kind: str) -> str:
    return f"fluid-{kind.lower()}-controller-finalizer"


def shorten(head: str, text: str, tail: str, limit: int, *, key: str = "", clear: bool = True) -> str:
    """`head` + `text` + `tail` where that fits, else `text` cut and told apart by 50 bits of its hash.

    What looks like a shortened name is hashed too, so that no name is another's short form. `key` is what is hashed
    (default `text`); `clear` False says that `text` does not name one thing only, so that the hash is always needed.
    """
    if clear and len(head) + len(text) + len(tail) <= limit and not _MARKED.search(text):
        return head + text + tail
    digest = mark(key or text)
    kept = text[: limit - len(head) - len(tail) - _MARK].rstrip("-.")
    return f"{head}{kept}-x{digest}{tail}"


def mark(text: str, length: int = 10) -> str:
    """`length` characters (5 bits each) of a hash, for a name."""
    return base64.b32encode(hashlib.blake2b(text.encode(), digest_size=7).digest()).decode().lower()[:length]


def dataset_id(namespace: str, name: str, uid: str) -> str:
    """Fluid's label value: `<namespace>-<name>`, the Dataset's uid from 63 characters on."""
    joined = f"{namespace}-{name}"
    return joined if len(joined) < LABEL_MAX else uid


def node_label(letter: str, namespace: str, name: str, uid: str) -> str:
    """`fluid.io/s-...` (a worker is on the node) or `fluid.io/f-...` (it shows the dataset). Fluid counts the whole key."""
    key = f"fluid.io/{letter}-{namespace}-{name}"
    return key if len(key) < LABEL_MAX else f"fluid.io/{letter}-{uid}"


def fuse_path(type_: str, namespace: str, name: str) -> str:
    """Where Fluid's mount pods show a dataset on a node."""
    return f"/runtime-mnt/{type_}/{namespace}/{name}/{'jindofs' if type_ == 'jindo' else type_}-fuse"
