"""What runs in Ray Serve's own proxy, which is another process than the ingress replicas."""
