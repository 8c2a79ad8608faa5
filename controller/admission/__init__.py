"""Admission: what the API server asks before it takes a dataset's object or a pod. Pure but for `process` and what it starts."""
