"""Typed objects that cross a border: manifests, quantities, names, wire messages. Imports no other room."""
