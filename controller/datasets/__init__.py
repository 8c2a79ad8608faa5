"""Passes over one dataset: what is wanted, what exists, what is written, and its last passes before forebay leaves."""
