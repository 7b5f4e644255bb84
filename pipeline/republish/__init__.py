"""Published shards taken apart again: failed rows, other filters."""
