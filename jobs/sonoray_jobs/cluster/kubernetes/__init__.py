"""A site on Kubernetes: a typed file, the manifests that follow from it, the way onto a cluster."""
