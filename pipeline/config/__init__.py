"""The configuration: its sections, and reading it."""
