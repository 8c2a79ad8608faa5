"""Which cluster and namespace a command is about, and what its API server says, in one sentence where it refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import click

from forebay.cli.output import CommandError
from forebay.controller.kinds import RESOURCES, Whole, as_object
from forebay.kube.client import Client
from forebay.kube.config import ConfigError, find
from forebay.kube.errors import ApiError, NotFound, Unreachable, Unusable
from forebay.kube.objects import Key
from forebay.kube.transport import Transport

MANAGER = "kubectl-forebay"
DEADLINE = 20.0
Object = dict[str, Any]
_F = TypeVar("_F", bound=Callable[..., Any])


class Where(NamedTuple):
    """As the options say it."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""


class Cluster(NamedTuple):
    client: Client
    transport: Transport
    namespace: str

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """An object of the namespace, or of none; None where there is none of the name."""
        resource = RESOURCES[kind]
        try:
            space = (namespace or self.namespace) if resource.namespaced else ""
            found: Object = self.client.get(resource, Key(space, name), dict[str, Any])
        except NotFound:
            return None
        return {"apiVersion": resource.api_version, "kind": kind, **found}

    def all(self, kind: str, namespace: str = "", labels: str = "") -> list[Object]:
        """All objects of a kind, of one namespace where one is named."""
        listed, _ = self.client.list_all(RESOURCES[kind], Whole, namespace, labels=labels)
        return [as_object(RESOURCES[kind], thing) for thing in listed]

    def dataset(self, name: str) -> Object:
        """Raises `CommandError` where there is none, with those that there are."""
        found = self.get("Dataset", name)
        if found is None:
            known = ", ".join(sorted(d["metadata"]["name"] for d in self.all("Dataset", self.namespace))[:10]) or "none"
            raise CommandError(
                f"there is no Dataset {name} in namespace {self.namespace} (there are: {known}); name another, or use -n"
            )
        return found


def where_options(command: _F) -> _F:
    """--namespace, --context and --kubeconfig, as kubectl has them."""
    options = (
        click.option(
            "-n", "--namespace", default="", metavar="NS", help="Default: that of the context.", shell_complete=_namespaces
        ),
        click.option("--context", default="", metavar="NAME", help="Of the kubeconfig."),
        click.option("--kubeconfig", default="", metavar="FILE", help="Default: KUBECONFIG, then ~/.kube/config."),
    )
    for option in options:
        command = option(command)
    return command


output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result."
)


@contextlib.contextmanager
def reached(where: Where, deadline: float = DEADLINE) -> Iterator[Cluster]:
    """A cluster; what its server refuses ends the command with its sentence. Raises `CommandError`."""
    try:
        endpoint = find(where.kubeconfig, where.context)
        transport = Transport(endpoint, agent=MANAGER)
    except ConfigError as e:
        raise CommandError(str(e)) from e
    try:
        yield Cluster(
            Client(transport, MANAGER, deadline=deadline), transport, where.namespace or endpoint.namespace or "default"
        )
    except (ApiError, Unreachable, Unusable, ConfigError) as e:
        raise CommandError(str(e)) from e
    finally:
        transport.close()


# --- completion -----------------------------------------------------------------------------------------------------

COMPLETING = 2.0
"""Seconds that a TAB may take."""


def _names(kind: str, ctx: click.Context, incomplete: str, *, everywhere: bool = False) -> list[str]:
    params = ctx.params
    where = Where(*(str(params.get(field) or "") for field in Where._fields))
    try:
        with reached(where, COMPLETING) as cluster:
            listed = cluster.all(kind, "" if everywhere or not RESOURCES[kind].namespaced else cluster.namespace)
    except CommandError:
        return []  # a TAB says nothing
    return sorted(name for obj in listed if (name := obj["metadata"]["name"]).startswith(incomplete))


def dataset_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return _names("Dataset", ctx, incomplete)


def _namespaces(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return _names("Namespace", ctx, incomplete)


namespace_names = _namespaces
