"""What RBAC cannot say: a node plugin writes the NodeCache of its own node, and no other's. Checked by the API server itself.

A token that the kubelet got for a pod names the pod's node (Kubernetes 1.30 and newer); another one is refused.
"""

from __future__ import annotations

from forebay.api.crd.kinds import OWN_GROUP
from forebay.controller.install import rights
from forebay.runtimes.engine import Object

NAME = "forebay-nodecaches"
NODE_CLAIM = "authentication.kubernetes.io/node-name"
API = "admissionregistration.k8s.io/v1"


def policy(namespace: str, labels: Object) -> list[Object]:
    """`namespace`: of the installation."""
    account = f"system:serviceaccount:{namespace}:{rights.NODE}"
    name = "(request.operation == 'DELETE' ? oldObject : object).metadata.name"
    claim = f"request.userInfo.extra['{NODE_CLAIM}']"
    own = f"has(request.userInfo.extra) && '{NODE_CLAIM}' in request.userInfo.extra && {claim}.exists(n, n == {name})"
    meta = {"name": NAME, "labels": labels}
    rule = {"apiGroups": [OWN_GROUP], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE", "DELETE"]}
    return [
        {
            "apiVersion": API,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": meta,
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{**rule, "resources": ["nodecaches", "nodecaches/status"]}]},
                "matchConditions": [{"name": "node-plugin", "expression": f"request.userInfo.username == '{account}'"}],
                "validations": [{"expression": own, "message": "a node plugin writes the NodeCache of its own node alone"}],
            },
        },
        {
            "apiVersion": API,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": meta,
            "spec": {"policyName": NAME, "validationActions": ["Deny"]},
        },
    ]
