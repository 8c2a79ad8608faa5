"""The demo, and the stores it makes for the occasion."""
