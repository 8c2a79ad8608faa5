"""forebay: a data caching and acceleration service for Kubernetes and for one machine."""

__version__ = "0.1.0"
