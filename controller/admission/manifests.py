"""The webhook's part of an installation: Secret, settings, workload, Service and the two configurations. Pure.

Both configurations ignore a webhook that does not answer: no pod waits for it, and what it would have refused of a dataset the
controller says in a condition. The Secret is empty here: the process fills it, and may write no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forebay.api.crd.kinds import KINDS
from forebay.api.fluid.kinds import GROUP
from forebay.controller.admission.pods import INJECT, OPT_OUT, SIDECAR
from forebay.controller.admission.preferences import Preferences, shown
from forebay.controller.install import rights
from forebay.runtimes.confined import CONFINED

PODS, OBJECTS = "/pods", "/objects"
"""Where the API server calls."""
PORT, HEALTH = 9443, 8081
FILE = "webhook.yaml"
POD_SECONDS, OBJECT_SECONDS = 2, 5
"""Longest that a pod, and an object of a dataset, is held up by a webhook that is not there."""
EXEMPT = ("kube-system", "kube-public", "kube-node-lease")
"""Namespaces whose pods never pass through, beside the installation's own."""
NAME = "kubernetes.io/metadata.name"

Object = dict[str, Any]
Meta = Callable[[str, str, str], Object]
"""Name, component, namespace -> metadata."""


def configurations(space: str, meta: Meta) -> list[Object]:
    """Which requests are sent here. `space`: the installation's namespace."""
    outside = {"key": NAME, "operator": "NotIn", "values": [*EXEMPT, space]}
    admitted = {"key": OPT_OUT, "operator": "NotIn", "values": ["false"]}
    labelled = {"key": INJECT, "operator": "NotIn", "values": ["true"]}
    asked = [
        ("labelled.pods.forebay.io", [outside], [_is(INJECT)]),
        *((f"sidecar{i}.pods.forebay.io", [outside], [labelled, _is(key)]) for i, key in enumerate(SIDECAR)),
        ("namespace.pods.forebay.io", [outside, _is(OPT_OUT)], [labelled]),
    ]
    return [
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": meta(rights.WEBHOOK, "webhook", ""),
            "webhooks": [_pods(space, name, spaces, [*chosen, admitted]) for name, spaces, chosen in asked],
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": meta(rights.WEBHOOK, "webhook", ""),
            "webhooks": [_objects(space)],
        },
    ]


def _is(key: str) -> Object:
    return {"key": key, "operator": "In", "values": ["true"]}


def _hook(space: str, name: str, path: str, seconds: int) -> Object:
    service = {"namespace": space, "name": rights.WEBHOOK, "path": path, "port": 443}
    return {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "matchPolicy": "Equivalent",
        "timeoutSeconds": seconds,
        "clientConfig": {"service": service},
    }


def _pods(space: str, name: str, spaces: list[Object], chosen: list[Object]) -> Object:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"], "scope": "Namespaced"}
    return {
        **_hook(space, name, PODS, POD_SECONDS),
        "reinvocationPolicy": "IfNeeded",
        "namespaceSelector": {"matchExpressions": spaces},
        "objectSelector": {"matchExpressions": chosen},
        "rules": [rule],
    }


def _objects(space: str) -> Object:
    """Our own controller's writes do not pass: it must be able to finalize what was never right."""
    plurals = sorted(k.plural for k in KINDS if k.group == GROUP)
    rule = {
        "apiGroups": [GROUP],
        "apiVersions": ["v1alpha1"],
        "resources": plurals,
        "operations": ["CREATE", "UPDATE"],
        "scope": "*",
    }
    own = f"system:serviceaccount:{space}:{rights.CONTROLLER}"
    return {
        **_hook(space, "objects.forebay.io", OBJECTS, OBJECT_SECONDS),
        "matchConditions": [{"name": "not-our-controller", "expression": f"request.userInfo.username != '{own}'"}],
        "rules": [rule],
    }


def service(space: str, meta: Meta, labels: Object) -> Object:
    ports = [{"name": "https", "port": 443, "targetPort": "https", "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta(rights.WEBHOOK, "webhook", space),
        "spec": {"selector": labels, "ports": ports},
    }


def secret(space: str, meta: Meta) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta(rights.CERTIFICATES, "webhook", space), "type": "Opaque"}


def preferences(space: str, meta: Meta) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta(rights.WEBHOOK, "webhook", space),
        "data": {FILE: shown(Preferences())},
    }


def container(image: str, pull_policy: str, probe: Callable[[str, str | int, int], Object], settings: str) -> Object:
    """`settings`: name of the installation's settings file."""
    return {
        "name": "webhook",
        "image": image,
        "imagePullPolicy": pull_policy,
        "command": ["forebay", "webhook"],
        "args": [
            f"--config=/etc/forebay/{settings}",
            f"--preferences=/etc/forebay-webhook/{FILE}",
            f"--serve=:{PORT}",
            f"--listen=:{HEALTH}",
        ],
        "ports": [
            {"name": "https", "containerPort": PORT, "protocol": "TCP"},
            {"name": "health", "containerPort": HEALTH, "protocol": "TCP"},
        ],
        "livenessProbe": probe("/healthz", "health", 20),
        "readinessProbe": probe("/readyz", "health", 5),
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "384Mi"}},
        "securityContext": {
            **CONFINED,
        },
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/forebay", "readOnly": True},
            {"name": "preferences", "mountPath": "/etc/forebay-webhook", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def volumes() -> list[Object]:
    return [
        {"name": "config", "configMap": {"name": rights.CONTROLLER}},
        {"name": "preferences", "configMap": {"name": rights.WEBHOOK}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
    ]
