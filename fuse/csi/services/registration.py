"""How kubelet learns of the driver: it finds a socket in its folder `plugins_registry` and asks it who it is.

The socket is there exactly while the driver answers. When kubelet says that it refused the driver, the process ends, and its
restart is the next try.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from forebay.cache.log import log
from forebay.fuse.csi.protocol import messages as m
from forebay.fuse.csi.protocol.proto import Empty, Message
from forebay.fuse.csi.protocol.rpc import Method, Server

VERSIONS = ["1.0.0"]
"""As kubelet compares them: the major version of the specification."""
TYPE = "CSIPlugin"


class Registration:
    """`folder`: kubelet's plugins_registry. `endpoint`: where kubelet reaches the driver. `refused` gets kubelet's words."""

    def __init__(self, driver: str, endpoint: str, folder: str, refused: Callable[[str], None]) -> None:
        self._driver = driver
        self._endpoint = endpoint
        self._refused = refused
        self.registered = False
        self._server = Server(f"{folder}/{driver}-reg.sock", self.methods())

    def methods(self) -> Mapping[str, Method]:
        return {
            f"{m.REGISTRATION}/GetInfo": Method(Empty, self.info),
            f"{m.REGISTRATION}/NotifyRegistrationStatus": Method(m.RegistrationStatus, self.told),
        }

    def info(self, _: Empty) -> m.RegistrationInfo:
        return m.RegistrationInfo(TYPE, self._driver, self._endpoint, VERSIONS)

    def told(self, status: m.RegistrationStatus) -> Message:
        self.registered = status.plugin_registered
        log("csi", "registered" if status.plugin_registered else "registration_refused", why=status.error)
        if not status.plugin_registered:
            self._refused(status.error)
        return Empty()

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0.5)
