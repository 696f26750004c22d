"""Stand-ins for other products, to try things out and to test with: as strict as the real ones."""
