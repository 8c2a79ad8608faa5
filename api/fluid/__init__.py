"""Fluid's fourteen kinds: their fields as data, their names, what is written under their status."""
