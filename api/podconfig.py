"""What a worker pod reads in place of a spec file: the spec without credentials, and the files that hold those.

The ConfigMap has it under `config.json`. The pod fills it from the mounted Secrets (`fill`), and again whenever those
change. A client tier talks to no store: `public`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from forebay.api.spec import ENDPOINT_NAME, SPEC_VERSION, Cluster, DatasetSpec, Mount

FILE = "config.json"
VERSION = 1

CONFIG_DIR = "/etc/forebay/config"
CREDENTIALS_DIR = "/etc/forebay/credentials"
SECRET_FILE = "/etc/forebay/secret/secret"
SECRET_KEY = "secret"
STATE_DIR = "/var/lib/forebay"
"""What the node gives: `tiers/<i>`, `index`, `run` (the door's socket), `members/members.yaml`."""
MEMBERS = f"file:{STATE_DIR}/members/members.yaml"
ORDERS_DIR, LEAVING = "/etc/forebay/orders", "leaving"
"""A file there that is not empty tells the worker to hand out what it owns, and to stop serving then."""
HOST_DIR, CLAIM_DIR = "/host", "/claims"
"""Where directories of the node and other claims, which mounts name, appear in a worker."""


class Files(msgspec.Struct, frozen=True, omit_defaults=True):
    """Canonical option -> file below the credentials directory, `<secret>/<key>`."""

    secrets: dict[str, str] = {}
    options: dict[str, str] = {}
    optional: tuple[str, ...] = ()  # of both: a missing file is no error


class Config(msgspec.Struct, frozen=True):
    """`reader_quota`: bytes that a node keeps for its readers, beside what workers do; 0: what the node was told for all."""

    spec: DatasetSpec
    files: list[Files]  # one for each mount
    version: int = VERSION
    reader_quota: int = 0


def cluster() -> Cluster:
    """Which addresses and node it is, a pod learns when it starts."""
    return Cluster(members=MEMBERS, secret_file=SECRET_FILE, node="")


def encode(config: Config) -> str:
    """Text for the ConfigMap: for people too."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2).decode() + "\n"


def decode(raw: bytes) -> Config:
    """Raises `ValueError` with a sentence for what is no configuration, or one of a newer version."""
    try:
        config = msgspec.json.decode(raw, type=Config)
    except msgspec.DecodeError as e:
        raise ValueError(f"{FILE} is no configuration of a worker: {e}") from e
    if config.version > VERSION or config.spec.version > SPEC_VERSION:
        raise ValueError(f"{FILE} is of version {config.version}, newer than this image: update the image of the workers")
    if len(config.files) != len(config.spec.mounts):
        raise ValueError(f"{FILE} names files of {len(config.files)} mounts, but has {len(config.spec.mounts)}")
    return config


def fill(config: Config, read: Callable[[str], str]) -> DatasetSpec:
    """The spec with credentials. `read` takes `<secret>/<key>` and raises `FileNotFoundError`; so does this, with what to do."""

    def values(names: dict[str, str], optional: tuple[str, ...], mount: Mount) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, path in names.items():
            try:
                found[name] = read(path)
            except FileNotFoundError:
                if name not in optional:
                    secret, _, key = path.partition("/")
                    what = f"mount {mount.name or mount.path} takes {name} from key {key} of Secret {secret}, which is not there"
                    raise FileNotFoundError(f"{what}: add the key to the Secret") from None
        return found

    mounts = [
        msgspec.structs.replace(
            mount,
            secrets={**mount.secrets, **values(files.secrets, files.optional, mount)},
            options={**_named(mount, files).options, **values(files.options, files.optional, mount)},
        )
        for mount, files in zip(config.spec.mounts, config.files, strict=True)
    ]
    return msgspec.structs.replace(config.spec, mounts=mounts)


def public(config: Config) -> DatasetSpec:
    """The spec for who talks to no store. Its mounts have the same identities as those of `fill`."""
    mounts = [_named(mount, files) for mount, files in zip(config.spec.mounts, config.files, strict=True)]
    return msgspec.structs.replace(config.spec, mounts=mounts)


def _named(mount: Mount, files: Files) -> Mount:
    """An endpoint that comes from a Secret is part of what a mount is, and is named by its file where it is not known."""
    path = files.options.get("endpoint")
    return mount if path is None else msgspec.structs.replace(mount, options={**mount.options, ENDPOINT_NAME: path})


def revision(config: Config) -> str:
    """Names this configuration: what workers report to serve."""
    return _digest(config)


def fixed(config: Config) -> str:
    """Names the part that a running worker cannot take over: a change of it starts the workers again."""
    return _digest(
        msgspec.structs.replace(config, spec=msgspec.structs.replace(config.spec, mounts=[]), files=[], reader_quota=0)
    )


def _digest(config: Config) -> str:
    return hashlib.blake2b(msgspec.json.encode(config), digest_size=8).hexdigest()
