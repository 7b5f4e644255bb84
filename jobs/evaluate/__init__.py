"""``overpaint evaluate``: public benchmarks and the demo world, edited and measured."""
