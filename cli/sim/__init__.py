"""Recorded workloads under a virtual clock."""
