"""Kinds of devices as data."""
