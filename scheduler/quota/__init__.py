"""Elastic quotas: who may start, who borrows from whom, and who gives back."""
