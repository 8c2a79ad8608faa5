"""What an installation consists of, as plain manifests and as a Helm chart, from one source."""
