"""The HTTP server, a read-only follower of the log."""
