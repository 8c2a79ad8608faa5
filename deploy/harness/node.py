"""What stands in a node's configuration files. Pure; node.sh, its process 1, reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.layout import Net, Place

PAUSE = "docker.io/library/pause:dev"
SYSCTLS = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}
"""What the kubelet would write for the whole machine. The node sees them as it wants them, the machine's stay as they are."""


@dataclass(frozen=True)
class Node:
    """One node of a cluster: its name, its number from 1, how many there are."""

    name: str
    number: int
    count: int


def files(node: Node, net: Net, place: Place, plan: dict[str, Any], memory: int) -> dict[str, str]:
    """File name to content, in the node's folder. `plan`: of the cluster; `memory`: bytes of the machine."""
    programs: dict[str, str] = plan["programs"]
    return {
        "kubelet.json": json.dumps(_kubelet(node, place, net, memory), indent=1),
        "kube-proxy.json": json.dumps(_proxy(node, place, net), indent=1),
        "containerd.toml": _containerd(place.node(node.name), programs, plan["snapshotter"]),
        "cni/10-pods.conflist": json.dumps(_cni(net.pods(node.number)), indent=1),
        "resolv.conf": "",
        **{f"sysctl/{name}": f"{value}\n" for name, value in SYSCTLS.items()},
        "hostname": node.name,
        "address": net.node(node.number),
        "commands": "".join(
            f"{name}={programs[key]}\n"
            for name, key in (
                ("CONTAINERD", "containerd"),
                ("CTR", "ctr"),
                ("SHIMS", "containerd-shim-runc-v2"),
                ("KUBELET", "kubelet"),
                ("KUBE_PROXY", "kube-proxy"),
            )
        ),
    }


def _kubelet(node: Node, place: Place, net: Net, memory: int) -> dict[str, Any]:
    secrets = place.secrets
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{secrets}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{secrets}/{node.name}.crt",
        "tlsPrivateKeyFile": f"{secrets}/{node.name}.key",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [net.bridge],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{place.node(node.name)}/resolv.conf",
        "cgroupRoot": f"/{place.cgroup(node.name)}",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": True,
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        # Every node sees the whole machine; this leaves each its share.
        "systemReserved": {"memory": str(memory - memory // node.count)},
        "evictionHard": {
            "memory.available": "64Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 4,
        "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
        "maxPods": 200,
    }


def _proxy(node: Node, place: Place, net: Net) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.name,
        "clientConnection": {"kubeconfig": str(place.secrets / "kube-proxy.kubeconfig")},
        "detectLocalMode": "ClusterCIDR",
        "clusterCIDR": net.all_pods,
        # The limits belong to the whole machine and cannot be set in a namespace; asking for it ends the program.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def _containerd(folder: Path, programs: dict[str, str], snapshotter: str) -> str:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[{cri}]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "{PAUSE}"
[{cri}.containerd]
  snapshotter = "{snapshotter}"
  default_runtime_name = "runc"
[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
  BinaryName = "{programs["runc"]}"
[{cri}.cni]
  bin_dir = "{programs["cni"]}"
  conf_dir = "{folder}/cni"
"""


def _cni(subnet: str) -> dict[str, Any]:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}
