"""The control plane: passes over datasets, nodes and loads, admission, and what an installation consists of."""
