"""Reconcilers and the admission webhook. Empty until the control plane lands."""
