"""``overpaint benchmark``: the speed of the bare loop and of the whole job."""
