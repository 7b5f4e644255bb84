"""``overpaint evaluate``: edits and measures public benchmarks and the demo world."""
