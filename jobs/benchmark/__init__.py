"""``overpaint benchmark``: measures the speed of the bare loop and of the whole job."""
