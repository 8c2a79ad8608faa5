"""The CacheRuntimeClass `forebay`: a CacheRuntime that names it is served by our own engine."""

from __future__ import annotations

from typing import Any

from forebay import __version__
from forebay.api.fluid.kinds import API_VERSION

NAME = "forebay"
FILE_SYSTEM = "forebay"
IMAGE = f"forebay:{__version__}"
"""What installations replace by the name under which their registry has it."""

_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def engine_class(image: str = IMAGE) -> dict[str, Any]:
    """The object. There is no master: workers find each other, so no command mounts or reports."""
    return {
        "apiVersion": API_VERSION,
        "kind": "CacheRuntimeClass",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/part-of": "forebay"}},
        "fileSystemType": FILE_SYSTEM,
        "dataOperationSpecs": [{"name": "DataLoad"}],
        "topology": {
            "worker": {
                "service": {"headless": {}},
                "template": {"spec": {"containers": [{"name": "worker", "image": image, "securityContext": _RESTRICTED}]}},
            },
            "client": {"template": {"spec": {"containers": [{"name": "client", "image": image}]}}},
        },
    }
