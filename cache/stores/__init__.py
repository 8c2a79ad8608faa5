"""One module a store kind, all behind `forebay.cache.stores.base.Store`.

A kind is imported when its first mount is opened: a worker that reads a directory never loads TLS or XML.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from forebay.api.spec import Mount
from forebay.cache.stores.base import Store

if TYPE_CHECKING:
    from forebay.cache.stores.net.transport import Timeouts

KINDS = {
    "s3": "forebay.cache.stores.s3.store",
    "http": "forebay.cache.stores.http.store",
    "file": "forebay.cache.stores.file",
    "gone": "forebay.cache.stores.gone",
}
"""`Mount.store` -> the module whose `open_mount(mount, timeouts)` opens it."""


def open_store(mount: Mount, timeouts: Timeouts | None = None) -> Store:
    """Open the store of a mount. Contacts nobody: `Store.probe` proves reach and credentials.

    Raises `ValueError` with a sentence when the kind is unknown or its source or options cannot be used.
    """
    module = KINDS.get(mount.store)
    if module is None:
        raise ValueError(f"mount {mount.called!r}: no store kind {mount.store!r}; known are {', '.join(sorted(KINDS))}")
    return cast(Store, import_module(module).open_mount(mount, timeouts))
