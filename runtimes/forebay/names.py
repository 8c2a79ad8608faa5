"""Names of the objects of one dataset. Each function of (namespace, name) is injective within its kind."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable

import msgspec

from forebay.api.fluid import names as fluid
from forebay.runtimes.engine import Object, Ref, Subject

DATASET, COMPONENT = "forebay.io/dataset", "forebay.io/component"
"""Labels by which everything of one dataset is found, in its namespace."""
WORKER, LOADER = "worker", "loader"


class Names(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    uid: str

    @property
    def workers(self) -> str:
        """StatefulSet, PodDisruptionBudget, NetworkPolicy; `<name>-worker` as in Fluid."""
        return fluid.shorten("", self.name, "-worker", fluid.STATEFULSET_MAX)

    @property
    def service(self) -> str:
        """`svc-<name>-worker`, as Fluid's CacheRuntime has it."""
        return fluid.shorten("svc-", self.name, "-worker", fluid.SERVICE_MAX)

    @property
    def config(self) -> str:
        return f"{self.name}-forebay"

    @property
    def secret(self) -> str:
        """The dataset's own secret, by which its nodes know each other.

        Of this Dataset and no earlier one of its name: it is made without a look at what is there, and must never be another's.
        """
        return f"{self.name}-forebay-{fluid.mark(self.uid, 8)}"

    def credentials(self, plain: Iterable[tuple[str, str]]) -> str:
        """The Secret of credentials that the manifest holds in plain text. Named by what it holds: it is made, never changed."""
        return f"{self.name}-forebay-credentials-{_slow_mark(self.uid, tuple(plain))}"

    @property
    def claim(self) -> str:
        return self.name

    @property
    def volume(self) -> str:
        """`<namespace>-<name>`, as in Fluid, where only one dataset can be meant: the namespace has no dash."""
        joined, clear = f"{self.namespace}-{self.name}", "-" not in self.namespace
        return fluid.shorten("", joined, "", fluid.OBJECT_MAX, key=self.key, clear=clear)

    @property
    def handle(self) -> str:
        """The volumeHandle: at most 127 bytes, of which CSI allows 128."""
        return self.key

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def id(self) -> str:
        return fluid.dataset_id(self.namespace, self.name, self.uid)

    @property
    def labels(self) -> dict[str, str]:
        """What every object of the dataset carries."""
        return {
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/managed-by": "forebay",
            "app.kubernetes.io/part-of": "forebay",
            DATASET: self.name,
            fluid.DATASET_ID: self.id,
        }

    @property
    def selector(self) -> dict[str, str]:
        """What the worker pods are found by. Immutable in a StatefulSet: nothing here may depend on the spec."""
        return {COMPONENT: WORKER, DATASET: self.name}


def names_of(subject: Subject) -> Names:
    namespace, name = subject.key
    return Names(namespace, name, subject.dataset["metadata"].get("uid", ""))


def children(names: Names) -> tuple[Ref, ...]:
    """Everything that `plan` may apply, in the order in which it is taken away.

    Secrets are missing: nobody here may read one. They are made once, and go with the Dataset that owns them.
    """
    namespace = names.namespace
    return (
        Ref("PersistentVolumeClaim", namespace, names.claim),
        Ref("PersistentVolume", "", names.volume),
        Ref("StatefulSet", namespace, names.workers),
        Ref("PodDisruptionBudget", namespace, names.workers),
        Ref("NetworkPolicy", namespace, names.workers),
        Ref("Service", namespace, names.service),
        Ref("ConfigMap", namespace, names.config),
    )


@functools.lru_cache(maxsize=256)
def _slow_mark(uid: str, plain: tuple[tuple[str, str], ...]) -> str:
    """40 bits of a hash that takes 30 ms: names are seen by who may not see credentials, and must not help to guess one."""
    text = "\0".join(part for pair in plain for part in pair).encode()
    return base64.b32encode(hashlib.scrypt(text, salt=uid.encode(), n=1 << 13, r=8, p=1, dklen=5)).decode().lower()


def ref_of(obj: Object) -> Ref:
    meta = obj["metadata"]
    return Ref(obj["kind"], meta.get("namespace", ""), meta["name"])
