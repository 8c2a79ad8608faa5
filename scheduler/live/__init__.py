"""The scheduler as it runs in a cluster: what watches say comes in, bindings go out. `core` decides, all else is shell."""
