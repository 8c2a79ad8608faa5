"""Bytes: stores, namespace index, cache files and extents, tiers and eviction, the worker, its door and client."""
