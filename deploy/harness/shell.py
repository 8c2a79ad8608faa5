"""What a person's shell needs for a cluster: `source .../env`."""

from __future__ import annotations

from harness import build, image
from harness.cluster import Cluster
from harness.keeper import S3_KEY, S3_SECRET


def environment(it: Cluster) -> str:
    """Lines that any POSIX shell can source. `kubectl forebay` is the plugin of this working tree, so its `.venv` stands on the
    PATH too, behind everything else: no other program of the person's is hidden by it."""
    front = ":".join(str(build.place(name).parent) for name in ("kubectl", "helm"))
    return (
        f"export KUBECONFIG={it.place.kubeconfig}\n"
        f'export PATH="{front}:$PATH:{image.ROOT / ".venv/bin"}"\n'
        f"export AWS_ENDPOINT_URL={it.store} AWS_REGION=us-east-1\n"
        f"export AWS_ACCESS_KEY_ID={S3_KEY} AWS_SECRET_ACCESS_KEY={S3_SECRET}\n"
        # an interactive bash completes `kubectl` and, through its plugin, `kubectl forebay`
        'case "$BASH_VERSION:$-" in ?*:*i*) eval "$(kubectl completion bash)";; esac\n'
    )
