"""The Kubernetes objects of a site, one module for each kind of thing; plain dictionaries."""
