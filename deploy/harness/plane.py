"""The command lines of a control plane. Pure; tests/support starts one by them on loopback, keeper.py one for nodes."""

from __future__ import annotations

from pathlib import Path

from harness.pki import Identities


def etcd(data: Path, client_port: int, peer_port: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    return [
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=error",
    ]


def api_server(who: Identities, folder: Path, etcd_port: int, port: int, services: str) -> list[str]:
    """Without an address to listen on: those differ."""
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--secure-port={port}",
        f"--cert-dir={folder}",
        f"--tls-cert-file={who.server.crt}",
        f"--tls-private-key-file={who.server.key}",
        f"--client-ca-file={who.ca.crt}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={who.account_key}",
        f"--service-account-signing-key-file={who.account_key}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={services}",
        f"--requestheader-client-ca-file={who.front.crt}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={who.front_client.crt}",
        f"--proxy-client-key-file={who.front_client.key}",
        "--feature-gates=SizeBasedListCostEstimate=false",  # etcd 3.4 cannot say the size of a range
    ]


def for_nodes(who: Identities, advertise: str) -> list[str]:
    """What an API server needs besides where there are kubelets."""
    return [
        "--bind-address=0.0.0.0",
        f"--advertise-address={advertise}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={who.admin.crt}",
        f"--kubelet-client-key={who.admin.key}",
        f"--kubelet-certificate-authority={who.ca.crt}",
        "--enable-aggregator-routing=true",  # webhooks named by service go to the pod, no cluster address needed
        "--default-not-ready-toleration-seconds=20",
        "--default-unreachable-toleration-seconds=20",
    ]


def controller_manager(who: Identities, config: Path, folder: Path, port: int) -> list[str]:
    """To be started only after the API server is ready: before, it ends for good."""
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder}",
        f"--root-ca-file={who.ca.crt}",
        f"--service-account-private-key-file={who.account_key}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--kube-api-qps=300",  # with the default of 20 the default service account comes 4.5 s later
        "--kube-api-burst=600",
        "--pvclaimbinder-sync-period=2s",
        f"--flex-volume-plugin-dir={folder}/flex",
    ]


NODE_WATCH = ("--node-monitor-period=1s", "--node-monitor-grace-period=6s")
"""Of the controller manager: a node that is cut off is NotReady after 6 s, not after 50."""


def scheduler(config: Path, folder: Path) -> list[str]:
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={folder}",
        "--leader-elect=false",
    ]


def corefile(address: str, config: Path) -> str:
    return (
        ".:53 {\n"
        f"  bind {address}\n"
        "  errors\n"
        f"  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {config}\n    pods insecure\n  }}\n"
        "  cache 2\n"
        "}\n"
    )
