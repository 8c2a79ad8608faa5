"""Sharing of devices: what a pod asks for, what a node has, which card it gets, and how each ecosystem writes that down."""
