"""The gateway: an HTTP server that takes events, items and traits in trackers' formats, and appends them to the log."""
