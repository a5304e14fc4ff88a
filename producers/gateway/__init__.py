"""The gateway: an HTTP server that takes events, items and traits in the formats of trackers, and appends them to the log."""
