"""The small Kubernetes client layer (reflector, work queue, apply, leases, events)."""
