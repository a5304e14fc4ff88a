"""Replays of a shard into shadow runs, and their comparison with the live shard."""
