"""Preferences: what weighs among the nodes that pass all filters, in kube-scheduler's points."""
