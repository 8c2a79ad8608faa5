"""Identity: who the driver is, what it offers, whether it is well."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import forebay
from forebay.fuse.csi.protocol import messages as m
from forebay.fuse.csi.protocol.proto import Empty
from forebay.fuse.csi.protocol.rpc import Method


class Identity:
    """`problem` says what keeps the driver from working, "" when nothing does."""

    def __init__(self, driver: str, problem: Callable[[], str], *, controller: bool) -> None:
        self._driver = driver
        self._problem = problem
        self._controller = controller

    def methods(self) -> Mapping[str, Method]:
        return {
            f"{m.IDENTITY}/GetPluginInfo": Method(Empty, self.info),
            f"{m.IDENTITY}/GetPluginCapabilities": Method(Empty, self.capabilities),
            f"{m.IDENTITY}/Probe": Method(Empty, self.probe),
        }

    def info(self, _: Empty) -> m.PluginInfo:
        return m.PluginInfo(self._driver, forebay.__version__)

    def capabilities(self, _: Empty) -> m.Capabilities:
        offered = [m.PluginService.CONTROLLER_SERVICE] if self._controller else []
        return m.Capabilities([m.Capability(m.Kind(service)) for service in offered])

    def probe(self, _: Empty) -> m.Probed:
        return m.Probed(m.BoolValue(not self._problem()))
