"""Reference implementations of the papers' formulas in float64 numpy, for comparison only."""
