"""Entry points. The only importers of Ray; nothing imports jobs."""
