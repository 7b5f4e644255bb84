"""The report: one HTML page of an output that needs nothing else to be looked at."""
