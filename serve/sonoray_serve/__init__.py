"""The Ray Serve application: API, vision replica, language engine."""
