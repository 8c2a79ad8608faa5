"""A DataLoad on our workers: a Job whose pod asks them at their control doors, and an account that may say how far it is.

The pod has the dataset's secret, as workers have, and no credential of a store. Its account may write one thing at the API
server: the status of this one DataLoad. Names carry the DataLoad's uid, so that none is another's; but the Job's is Fluid's.
"""

from __future__ import annotations

from forebay.api import podconfig as conf
from forebay.api.crd.kinds import KINDS
from forebay.api.fluid import names as fluid
from forebay.api.fluid.kinds import GROUP
from forebay.api.manifests.dataload import LoadSpec, LoadSpecError, read_load
from forebay.runtimes.confined import CONFINED
from forebay.runtimes.engine import Finding, Loading, Object, Ref, Subject
from forebay.runtimes.forebay.names import COMPONENT, LOADER, Names, names_of

JOB_MAX = 63
"""Its pods carry the name as a label value."""
TRIES = 4
"""Pods that may fail, each after two and a half minutes without progress."""
RESULT = "/dev/termination-log"
_PLURAL = next(k.plural for k in KINDS if k.kind == "DataLoad")
_RESOURCES: Object = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}


def job_name(load: str) -> str:
    """`<load>-loader-job`, as in Fluid."""
    return fluid.shorten("", load, "-loader-job", JOB_MAX)


def loading(subject: Subject, load: Object) -> Loading:
    meta = load["metadata"]
    job = Ref("Job", meta.get("namespace", "default"), job_name(meta["name"]))
    try:
        spec = read_load(load)
    except LoadSpecError as e:
        return Loading(job=job, findings=(Finding("error", "SpecRefused", str(e)),))
    findings = tuple(Finding("warning", "FieldsIgnored", text) for text in spec.ignored)
    account = fluid.shorten("", meta["name"], f"-loader-{fluid.mark(meta.get('uid', ''), 8)}", JOB_MAX)
    made = (*_account(subject, load, account), _job(subject, load, spec, job.name, account))
    return Loading(objects=made, job=job, findings=findings)


def _meta(subject: Subject, load: Object, name: str, **labels: str) -> Object:
    meta, names = load["metadata"], names_of(subject)
    owner = {
        "apiVersion": load["apiVersion"],
        "kind": load["kind"],
        "name": meta["name"],
        "uid": meta.get("uid", ""),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": name,
        "namespace": names.namespace,
        "labels": dict(sorted({**names.labels, COMPONENT: LOADER, **labels}.items())),
        "ownerReferences": [owner],
    }


def _account(subject: Subject, load: Object, name: str) -> tuple[Object, ...]:
    """What the pod is at the API server: somebody who may say how far this DataLoad is."""
    rbac, space = "rbac.authorization.k8s.io", names_of(subject).namespace
    rule = {
        "apiGroups": [GROUP],
        "resources": [f"{_PLURAL}/status"],
        "resourceNames": [load["metadata"]["name"]],
        "verbs": ["patch"],
    }
    return (
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _meta(subject, load, name),
            "automountServiceAccountToken": False,  # only the Job's pod asks for it
        },
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": _meta(subject, load, name), "rules": [rule]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": _meta(subject, load, name),
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": space}],
        },
    )


def _job(subject: Subject, load: Object, spec: LoadSpec, name: str, account: str) -> Object:
    release = fluid.shorten("", load["metadata"]["name"], "-loader", JOB_MAX)
    fluids = {"release": release, "app": "forebay", "targetDataset": spec.dataset}
    wanted: Object = spec.pod.get("podMetadata") or {}
    meta = _meta(subject, load, name, role="dataload-job", **fluids)
    pod = _meta(subject, load, name, role="dataload-pod", **fluids)["labels"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "backoffLimit": TRIES - 1,
            "completions": 1,
            "parallelism": 1,
            **({"activeDeadlineSeconds": spec.timeout} if spec.timeout else {}),
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onExitCodes": {"containerName": LOADER, "operator": "In", "values": [2]}},
                    # a pod that was evicted or drained did not fail
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {
                "metadata": {
                    "labels": dict(sorted({**(wanted.get("labels") or {}), **pod}.items())),
                    "annotations": dict(sorted((wanted.get("annotations") or {}).items())),
                },
                "spec": _pod(subject, load, spec, account),
            },
        },
    }


def _pod(subject: Subject, load: Object, spec: LoadSpec, account: str) -> Object:
    installation, names = subject.installation, names_of(subject)
    user = {} if installation.uid is None else dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), installation.uid)
    pod: Object = {
        "restartPolicy": "Never",  # a failure policy asks for it
        "serviceAccountName": account,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"runAsNonRoot": True, **user, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(subject, load, spec, names)],
        "volumes": [
            {
                "name": "secret",
                "secret": {
                    "secretName": names.secret,
                    "defaultMode": 0o400,
                    "items": [{"key": conf.SECRET_KEY, "path": conf.SECRET_KEY}],
                },
            }
        ],
        **{field: spec.pod[field] for field in ("affinity", "tolerations", "nodeSelector", "schedulerName") if field in spec.pod},
    }
    if installation.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in installation.pull_secrets]
    if installation.priority_class:
        pod["priorityClassName"] = installation.priority_class
    return pod


def _container(subject: Subject, load: Object, spec: LoadSpec, names: Names) -> Object:
    installation, meta = subject.installation, load["metadata"]
    return {
        "name": LOADER,
        "image": installation.image,
        "imagePullPolicy": installation.pull_policy,
        "command": ["forebay", "worker", "load"],
        "args": [
            f"--dataset={names.key}",
            f"--workers={names.service}.{names.namespace}.svc",
            f"--control-port={installation.control_port}",
            f"--secret={conf.SECRET_FILE}",
            *(f"--target={target.replicas}:{target.path}".replace("$", "$$") for target in spec.targets),
            *(["--refresh"] if spec.refresh else []),
            *(["--metadata-only"] if spec.metadata_only else []),
            *(f"--node={node}" for node in spec.nodes),
            f"--report-to={meta['name']}",
            f"--uid={meta.get('uid', '')}",
            f"--result={RESULT}",
        ],
        "resources": spec.pod.get("resources") or _RESOURCES,
        "securityContext": {
            **CONFINED,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": RESULT,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "secret", "mountPath": conf.SECRET_FILE.rpartition("/")[0], "readOnly": True}],
    }
