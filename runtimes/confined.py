"""What no container of ours may do, wherever it runs, but for those that mount on nodes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

CONFINED: Mapping[str, Any] = MappingProxyType(
    {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
)
"""`securityContext` of a container; Pod Security's profile `restricted` asks for the first two."""
