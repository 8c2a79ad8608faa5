"""Mount options as values. Every bad value is a `ValueError` with a sentence."""

from __future__ import annotations

import os

from forebay.api.spec import Mount
from forebay.cache.stores.net.transport import Timeouts, Transport

_TRUE = {"true", "yes", "1", "on"}
_FALSE = {"false", "no", "0", "off"}


def flag(mount: Mount, name: str, default: bool) -> bool:
    value = mount.options.get(name, "").strip().lower()
    if not value:
        return default
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ValueError(f"mount {mount.called!r}: option {name} is {mount.options[name]!r}; write true or false")


def plain(mount: Mount, name: str, value: str) -> str:
    """A value that will stand in a request's head: no control characters, Latin-1 at most."""
    if any(ord(c) < 32 or ord(c) == 127 or ord(c) > 255 for c in value):
        raise ValueError(f"mount {mount.called!r}: {name} has characters that cannot be sent; retype it without line breaks")
    return value


def transport_for(mount: Mount, timeouts: Timeouts) -> Transport:
    """The connections of one mount, by its options `verify` and `ca_file`."""
    ca_file = mount.options.get("ca_file") or None
    if ca_file is not None and not os.path.isfile(ca_file):
        raise ValueError(f"mount {mount.called!r}: option ca_file names {ca_file!r}, which is no file; name a PEM bundle")
    return Transport(timeouts, verify=flag(mount, "verify", True), ca_file=ca_file)
