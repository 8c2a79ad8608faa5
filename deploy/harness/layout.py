"""Where everything of a cluster is: addresses, names, folders. Pure.

A cluster has one /16 of private addresses, so that several run beside each other; the machine reaches all of it by one route:

    10.X.0.1            the bridge: API server :6443, DNS :53, S3 :9000
    10.X.0.11, .12 ...  nodes
    10.X.1.1, 10.X.1.2  the link between the machine and the cluster
    10.X.17.0/24 ...    pods of node 1 ...
    10.X.128.0/17       services
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

API_PORT, S3_PORT = 6443, 9000
OCTETS = range(77, 97)
"""X of the clusters, as many as may run at once."""


@dataclass(frozen=True)
class Net:
    """The addresses of the cluster with 10.`octet`.0.0/16."""

    octet: int

    @property
    def whole(self) -> str:
        return f"10.{self.octet}.0.0/16"

    @property
    def bridge(self) -> str:
        return f"10.{self.octet}.0.1"

    @property
    def outside(self) -> str:
        """The machine's end of the link."""
        return f"10.{self.octet}.1.1"

    @property
    def inside(self) -> str:
        return f"10.{self.octet}.1.2"

    @property
    def services(self) -> str:
        return f"10.{self.octet}.128.0/17"

    @property
    def first_service(self) -> str:
        """Of the API server, from within."""
        return f"10.{self.octet}.128.1"

    @property
    def all_pods(self) -> str:
        return f"10.{self.octet}.16.0/20"

    def node(self, number: int) -> str:
        return f"10.{self.octet}.0.{10 + number}"

    def pods(self, number: int) -> str:
        return f"10.{self.octet}.{16 + number}.0/24"

    @property
    def link(self) -> str:
        """The name of the machine's end of the link."""
        return f"forebay{self.octet}"

    def for_machine(self, pid: int) -> str:
        """For `ip -batch` on the machine: a link to the cluster whose process is `pid`."""
        return (
            f"link add {self.link} type veth peer name out0 netns {pid}\n"
            f"addr add {self.outside}/30 dev {self.link}\n"
            f"link set {self.link} up\n"
            f"route add {self.whole} via {self.inside}\n"
        )

    def for_cluster(self) -> str:
        """For `ip -batch` in the cluster's namespace. What is not ours leads nowhere."""
        return (
            "link set lo up\n"
            "link add pods type bridge\n"
            f"addr add {self.bridge}/24 dev pods\n"
            "link set pods up\n"
            f"addr add {self.inside}/30 dev out0\n"
            "link set out0 up\n"
            f"route add {self.services} via {self.node(1)}\n"  # its kube-proxy serves who asks from here
            f"route add unreachable {self.all_pods}\n"
            "route add unreachable default\n"
        )

    def link_node(self, number: int, pid: int) -> str:
        """For `ip -batch` in the cluster's namespace: plugs in the node whose process 1 is `pid`."""
        return (
            f"link add node{number} type veth peer name eth0 netns {pid}\n"
            f"link set node{number} master pods up\n"
            f"route replace {self.pods(number)} via {self.node(number)}\n"  # there already after a power cut
        )

    def for_node(self, number: int, count: int) -> str:
        """For `ip -batch` in the node's namespace."""
        others = [n for n in range(1, count + 1) if n != number]
        return (
            "link set lo up\n"
            f"addr add {self.node(number)}/24 dev eth0\n"
            "link set eth0 up\n"
            + "".join(f"route add {self.pods(n)} via {self.node(n)}\n" for n in others)
            + f"route add {self.services} via {self.bridge}\n"  # any next hop: a client on the node needs a route before its NAT
            f"route add {self.outside}/32 via {self.bridge}\n"  # the machine, so that it reaches pods
            "route add unreachable default\n"
        )


@dataclass(frozen=True)
class Place:
    """The folder of a cluster."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def lock(self) -> Path:
        """Held by the keeper while it lives; beside the folder, which goes before."""
        return self.folder.with_name(f"{self.name}.lock")

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def control(self) -> Path:
        return self.folder / "control"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def environment(self) -> Path:
        """To be sourced by a shell."""
        return self.folder / "env"

    @property
    def secrets(self) -> Path:
        return self.folder / "pki"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def buckets(self) -> Path:
        return self.folder / "s3"

    @property
    def api_ready(self) -> Path:
        """A file: kubelets wait for it."""
        return self.folder / "api-ready"

    def node(self, name: str) -> Path:
        return self.folder / "nodes" / name

    def cgroup(self, node: str) -> str:
        return f"forebay-{self.name}-{node}"
