"""``overpaint edit``: the driver, the graph of a run, and what it says."""
