"""Filters: one constraint a module, what it keeps as arrays, and what it says of nodes that fail it."""
