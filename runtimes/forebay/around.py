"""What stands around the workers: their names on the network, their configuration and secrets, and two safeguards."""

from __future__ import annotations

import base64

from forebay.api import podconfig as conf
from forebay.runtimes.engine import REVISION, Object
from forebay.runtimes.forebay.names import COMPONENT, DATASET, LOADER
from forebay.runtimes.forebay.workers import Job, meta, ports

_NODE_PLUGIN = {"app.kubernetes.io/part-of": "forebay", COMPONENT: "node"}


def service(job: Job) -> Object:
    """Headless: its EndpointSlices are the member list, which node plugins write to files."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta(job, job.names.service),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": False,
            "selector": dict(sorted(job.names.selector.items())),
            "ports": ports(job.installation, "port"),
        },
    }


def config_map(job: Job) -> Object:
    """Mounts change in it while workers run; they take the new ones over."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta(job, job.names.config, annotations={REVISION: conf.revision(job.config)}),
        "data": {conf.FILE: conf.encode(job.config)},
    }


def dataset_secret(job: Job, text: str) -> Object:
    """Made once. Written again it would part the workers that have it from those that do not."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta(job, job.names.secret, ownerReferences=[job.dataset]),
        "type": "Opaque",
        "data": {conf.SECRET_KEY: base64.b64encode(text.encode()).decode()},
    }


def credentials(job: Job) -> Object:
    """Made once, too: other credentials are another Secret, and start the workers again."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta(job, job.names.credentials(job.sources.plain), ownerReferences=[job.dataset]),
        "type": "Opaque",
        "immutable": True,
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in job.sources.plain},
    }


def disruption_budget(job: Job) -> Object:
    """One worker at a time leaves by choice of an administrator: each hands its share to the others first."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta(job, job.names.workers),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": dict(sorted(job.names.selector.items()))},
            # A worker that does not run has nothing to hand out: it must not hold a node's drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def network_policy(job: Job) -> Object:
    """Only workers of the dataset, its loads and node plugins reach the doors, which authenticate all the same."""
    installation = job.installation
    plugins = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": installation.namespace}},
        "podSelector": {"matchLabels": _NODE_PLUGIN},
    }
    loaders = {"podSelector": {"matchLabels": {COMPONENT: LOADER, DATASET: job.names.name}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta(job, job.names.workers),
        "spec": {
            "podSelector": {"matchLabels": {DATASET: job.names.name, **job.names.selector}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [{"podSelector": {"matchLabels": dict(sorted(job.names.selector.items()))}}, loaders, plugins],
                    "ports": [{"port": n, "protocol": "TCP"} for n in (installation.data_port, installation.control_port)],
                }
            ],
        },
    }
