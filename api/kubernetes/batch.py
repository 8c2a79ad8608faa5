"""What the scheduler reads of Jobs (`batch/v1` of Kubernetes 1.36): until when one may run. That is in none of its pods."""

from __future__ import annotations

import msgspec

from forebay.api.kubernetes.core import Meta

JOB_UID = ("batch.kubernetes.io/controller-uid", "controller-uid")
"""Labels of a Job's pods, the newer first."""


class JobSpec(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """`active_deadline_seconds` count from the Job's own start, over all its pods."""

    active_deadline_seconds: int | None = None


class JobStatus(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    start_time: str | None = None


class Job(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    metadata: Meta
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()
