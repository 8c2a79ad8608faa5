"""What each component may do at the API server: the least that it works with. A test runs the controller with just these."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.api.crd.kinds import KINDS, OWN_GROUP
from forebay.api.fluid.kinds import GROUP
from forebay.api.fluid.names import TYPES
from forebay.controller.copies import UNDRIVEN
from forebay.runtimes.engine import Object

CONTROLLER, NODE, MOUNTS = "forebay-controller", "forebay-node", "forebay-mounts"
UNINSTALL, NODE_LABELS = "forebay-uninstall", "forebay-node-labels"
"""Names of workloads, and of the service accounts of the first two; what holds the mounts calls no API server."""
WEBHOOK, CERTIFICATES = "forebay-webhook", "forebay-webhook-certificates"
"""The webhook's workload, account, Service and configurations; its Secret."""
LEASE = CONTROLLER

_PLURALS = {k.kind: k.plural for k in KINDS}
_JUDGED = [_PLURALS[kind] for kind in ("Dataset", *TYPES)]
_SERVED = [*_JUDGED, _PLURALS["DataLoad"]]
_TOLD = [_PLURALS[kind] for kind in UNDRIVEN]
"""What is not carried out: read, told so, and let go of."""
_LOOK = ("get", "list", "watch")
_OWN = (*_LOOK, "create", "patch", "delete")


def _rule(group: str, resources: Sequence[str], verbs: Sequence[str], names: Sequence[str] = ()) -> Object:
    found: Object = {"apiGroups": [group], "resources": sorted(resources), "verbs": list(verbs)}
    return {**found, "resourceNames": list(names)} if names else found


def controller() -> list[Object]:
    """Users' objects are read and marked, never made; but for DataLoads of one node, which the scheduler wishes for (`ahead`).
    Deleted are only those, and DataLoads whose time after their end is over.

    Of Secrets it only makes new ones: `get` and `patch` would both hand out those of everybody. The server lets it give nobody a
    right that it has not itself.
    """
    return [
        _rule(GROUP, [*_SERVED, *_TOLD], (*_LOOK, "patch")),
        _rule(GROUP, [f"{plural}/status" for plural in (*_SERVED, *_TOLD)], ("patch",)),
        _rule(GROUP, [f"{plural}/finalizers" for plural in _SERVED], ("update",)),  # where owner references are checked
        _rule(GROUP, [_PLURALS["CacheRuntimeClass"], _PLURALS["ThinRuntimeProfile"]], _LOOK),
        _rule(OWN_GROUP, [_PLURALS["DatasetGrant"], _PLURALS["NodeCache"]], _LOOK),
        _rule(OWN_GROUP, [f"{_PLURALS['DatasetGrant']}/status"], ("patch",)),
        _rule(OWN_GROUP, [_PLURALS["DatasetHints"]], _OWN),
        _rule(OWN_GROUP, [f"{_PLURALS['DatasetHints']}/status"], ("patch",)),
        _rule("", ["namespaces", "nodes"], _LOOK),
        _rule("", ["configmaps", "services", "persistentvolumes", "persistentvolumeclaims"], _OWN),
        _rule("apps", ["statefulsets"], _OWN),
        _rule("batch", ["jobs"], (*_LOOK, "create", "delete")),
        _rule("", ["serviceaccounts"], ("create",)),  # one for each load, which may write its status
        _rule("rbac.authorization.k8s.io", ["roles", "rolebindings"], ("create",)),
        _rule(GROUP, [_PLURALS["DataLoad"]], ("create", "delete")),
        _rule("policy", ["poddisruptionbudgets"], _OWN),
        _rule("networking.k8s.io", ["networkpolicies"], _OWN),
        _rule("", ["pods"], (*_LOOK, "patch", "delete")),  # the order to leave; a drained one that shall serve again
        _rule("", ["secrets"], ("create",)),
        _rule("events.k8s.io", ["events"], (*_LOOK, "create", "patch")),
    ]


def node_labels() -> list[Object]:
    """Where Fluid's labels of nodes are wanted. Large, so a role apart."""
    return [_rule("", ["nodes"], ("patch",))]


def controller_lease() -> list[Object]:
    """In its own namespace."""
    group = "coordination.k8s.io"
    return [_rule(group, ["leases"], ("create",)), _rule(group, ["leases"], ("get", "patch"), [LEASE])]


def uninstaller() -> list[Object]:
    """What takes datasets away: the controller's copies, and of its writes those that end something; and Fluid's labels of nodes,
    which may be there from a time when they were wanted."""
    kept = {GROUP: (*_LOOK, "patch"), "events.k8s.io": (*_LOOK, "create", "patch")}
    found: list[Object] = []
    for rule in controller():
        verbs = [v for v in rule["verbs"] if v in kept.get(rule["apiGroups"][0], (*_LOOK, "delete"))]
        if verbs:
            found.append({**rule, "verbs": verbs})
    return [*found, *node_labels()]


def uninstaller_here() -> list[Object]:
    """In the namespace of the installation: it stops the controller, and leads in its place."""
    return [*controller_lease(), _rule("apps", ["deployments/scale"], ("get", "patch"), [CONTROLLER])]


def node() -> list[Object]:
    """The node plugin: configurations and member lists of datasets, and whether its node is being emptied. No Secret: the
    kubelet hands it those of the volumes that it mounts."""
    return [
        _rule("", ["configmaps"], _LOOK),
        _rule("discovery.k8s.io", ["endpointslices"], _LOOK),
        _rule("", ["nodes"], _LOOK),
        _rule(OWN_GROUP, [_PLURALS["NodeCache"]], ("get", "create", "patch", "delete")),  # its own alone: the policy beside it
        _rule(OWN_GROUP, [f"{_PLURALS['NodeCache']}/status"], ("patch",)),
        _rule("events.k8s.io", ["events"], ("create", "patch")),
    ]


def webhook() -> list[Object]:
    """The webhook reads what it judges by, and tells its own two configurations of its authority. It makes nothing."""
    group, named = "admissionregistration.k8s.io", ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")
    described = [_PLURALS["CacheRuntimeClass"], _PLURALS["ThinRuntimeProfile"]]
    return [
        _rule(GROUP, [*_JUDGED, *described], _LOOK),
        _rule(OWN_GROUP, [_PLURALS["DatasetGrant"], _PLURALS["NodeCache"]], _LOOK),
        _rule("", ["namespaces", "nodes"], _LOOK),
        _rule(group, named, ("get", "patch"), [WEBHOOK]),
    ]


def webhook_secret() -> list[Object]:
    """In its own namespace: its certificates."""
    return [_rule("", ["secrets"], ("get", "patch"), [CERTIFICATES])]
