"""What a service keeps in a database: what people said of its answers."""
