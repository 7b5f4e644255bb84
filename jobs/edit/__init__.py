"""``overpaint edit``: the driver, the Ray graph of a run, and its output to the user."""
