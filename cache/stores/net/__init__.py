"""Connections to stores, and what travels over them."""
