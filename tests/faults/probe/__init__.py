"""Handlers that only the fault tests load (PLUGINS), one of each kind of effect."""
