"""Passes over one node: Fluid's labels of it."""
