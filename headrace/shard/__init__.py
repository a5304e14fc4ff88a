"""A shard: a journalled fold over partitions of the log, live and followed."""
