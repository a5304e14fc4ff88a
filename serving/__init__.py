"""What answers HTTP: a read-only follower of the log."""
