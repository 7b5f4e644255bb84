"""A part on its way through all steps, and the loop that runs a plan in one process."""
