"""Identity, Node, Controller, and how kubelet learns of them."""
