"""`forebay csi` and `forebay mounts`: the two processes of a Kubernetes node."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import click

from forebay.cli.output import CommandError

if TYPE_CHECKING:
    from forebay.fuse.csi.volumes.site import Layout
    from forebay.fuse.csi.volumes.source import Source
    from forebay.kube.client import Client

KUBELET = "/var/lib/kubelet"
CACHE = "/var/cache/forebay"


def _layout(kubelet: str, cache: str) -> Layout:
    from forebay.fuse.csi.driver import DRIVER
    from forebay.fuse.csi.volumes.site import Layout

    return Layout(f"{kubelet}/plugins/{DRIVER}", cache)


def _absolute(_context: click.Context, option: click.Parameter, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    for path in (value,) if isinstance(value, str) else value:
        if path and (not path.startswith("/") or os.path.normpath(path) != path):
            raise click.BadParameter(f"{path!r} is no absolute path without '..' and trailing slashes", param=option)
    return value


def _root_or_fail(command: str) -> None:
    if os.geteuid() != 0:
        raise CommandError(f"`forebay {command}` mounts for pods, which takes root: run it in a privileged pod, or as root")


@click.command(
    epilog="""\b
Examples:
  forebay csi --node worker-1                                    serve the kubelet of this node
  forebay csi --node worker-1 --mounts /var/lib/kubelet/plugins/forebay.io/mounts.sock
  forebay csi --node worker-1 --tier-root /nvme --tier-root /var/cache/forebay --host-path-root /srv/data
  forebay csi --node n1 --kubelet /opt/csi --datasets /etc/forebay/datasets --no-register     without Kubernetes

\b
Runs until SIGTERM. Mounts live on when it ends, and the next one finds them (docs/csi.md).
The API server is found as by kubectl: KUBECONFIG, the pod's service account, ~/.kube/config."""
)
@click.option("--node", required=True, metavar="NAME", help="Name of this node, as the API server has it.")
@click.option(
    "--endpoint", default="", metavar="unix:PATH", help="Where kubelet reaches the driver (KUBELET/plugins/forebay.io/csi.sock)."
)
@click.option("--kubelet", default=KUBELET, metavar="DIR", show_default=True, callback=_absolute, help="Kubelet's --root-dir.")
@click.option(
    "--mounts",
    "keeper",
    default="",
    metavar="SOCKET",
    callback=_absolute,
    help="Have mounts started by `forebay mounts`, whose socket this is; without it they are children of this process.",
)
@click.option(
    "--cache",
    default=CACHE,
    metavar="DIR",
    show_default=True,
    callback=_absolute,
    help="Disk for the cache of datasets that this node reads.",
)
@click.option("--quota", default="10Gi", metavar="SIZE", show_default=True, help="Bytes of one dataset in that cache.")
@click.option(
    "--tier-root",
    "tiers",
    multiple=True,
    metavar="DIR",
    callback=_absolute,
    help="Directory below which workers may have tiers; the first also takes those without one (--cache). Repeatable.",
)
@click.option(
    "--host-path-root",
    "hosts",
    multiple=True,
    metavar="DIR",
    callback=_absolute,
    help="Directory below which datasets may read the node (local://); none without it. Repeatable.",
)
@click.option(
    "--healthz", default="", metavar="HOST:PORT", help="Answer probes at /healthz and /readyz there, for instance :9809."
)
@click.option("--controller", is_flag=True, help="Serve the Controller too: volumes of a StorageClass.")
@click.option("--no-register", is_flag=True, help="Do not tell kubelet (another sidecar does, or there is none).")
@click.option(
    "--datasets", default="", metavar="DIR", callback=_absolute, help="Learn of datasets from files instead of an API server."
)
def csi(
    *,
    node: str,
    endpoint: str,
    kubelet: str,
    keeper: str,
    cache: str,
    quota: str,
    tiers: tuple[str, ...],
    hosts: tuple[str, ...],
    healthz: str,
    controller: bool,
    no_register: bool,
    datasets: str,
) -> None:
    """Serve this node's kubelet as CSI driver forebay.io."""
    from forebay.api.quantity import parse_quantity
    from forebay.cache.log import Lines
    from forebay.fuse.csi.driver import Driver, Settings

    _root_or_fail("csi")
    logging.basicConfig(handlers=[Lines()], level=logging.WARNING)
    layout = _layout(kubelet, cache)
    try:
        size = parse_quantity(quota)
    except ValueError as e:
        raise click.UsageError(f"--quota {quota}: {e}") from e
    settings = Settings(
        node=node,
        kubelet=kubelet,
        endpoint=_socket(endpoint) or f"{layout.base}/csi.sock",
        layout=layout,
        tier_roots=tiers or (cache,),
        host_roots=hosts,
        quota=int(size),
        keeper=keeper,
        register=not no_register,
        controller=controller,
        health=_door(healthz),
    )
    source, client = _source(datasets)
    raise SystemExit(Driver(settings, source, client).run())


def _source(datasets: str) -> tuple[Source, Client | None]:
    """Where datasets are known, and where hints go."""
    from forebay.fuse.csi.volumes.source import ApiSource, FolderSource

    if datasets:
        return FolderSource(datasets), None
    from forebay.kube.client import Client
    from forebay.kube.config import ConfigError, find
    from forebay.kube.transport import Transport

    try:
        transport = Transport(find())
        return ApiSource(transport), Client(transport, manager="forebay-hints")
    except ConfigError as e:
        raise CommandError(f"{e}; or give --datasets DIR where there is no API server") from e


def _socket(text: str) -> str:
    """The path of `unix:PATH` or `unix:///PATH`."""
    if not text:
        return ""
    kind, _, path = text.partition(":")
    path = path.removeprefix("//")
    if kind != "unix" or not path.startswith("/"):
        raise click.UsageError(f"--endpoint {text}: write unix:PATH with an absolute path")
    return path


def _door(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise click.UsageError(f"--healthz {text}: write HOST:PORT or :PORT")
    return host.strip("[]") or "0.0.0.0", int(port)


@click.command(
    epilog="""\b
Examples:
  forebay mounts                                      beside `forebay csi --mounts ...`, in a pod of its own

\b
Mount daemons and client tiers run in this process's container; the CSI driver says which, and holds their
descriptors, so that either of the two pods may be replaced under readers (docs/csi.md)."""
)
@click.option("--kubelet", default=KUBELET, metavar="DIR", show_default=True, callback=_absolute, help="Kubelet's --root-dir.")
@click.option("--cache", default=CACHE, metavar="DIR", show_default=True, callback=_absolute, help="As of `forebay csi`.")
@click.option("--endpoint", default="", metavar="unix:PATH", help="As of `forebay csi`: asked before this process ends.")
def mounts(*, kubelet: str, cache: str, endpoint: str) -> None:
    """Keep the mounts of this node for the CSI driver."""
    from forebay.fuse.csi.keeper import Keeper

    _root_or_fail("mounts")
    layout = _layout(kubelet, cache)
    os.chdir("/")
    Keeper(layout, _socket(endpoint)).run()
