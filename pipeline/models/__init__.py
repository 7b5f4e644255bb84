"""Networks: found, checked, loaded, and adapted once to what the mathematics expects."""
