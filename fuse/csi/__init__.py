"""The CSI driver `forebay.io`: how a Kubernetes node gives datasets and cache directories to pods (docs/csi.md)."""
