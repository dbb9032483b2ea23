"""What we do when a peer asks: one module a service class."""
