"""The process that keeps a dataset alive: what it decides, what it does, what it holds open."""
