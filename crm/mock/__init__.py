"""A CRM of our own for development, demos and tests: its cast, its state, and its HTTP server."""
