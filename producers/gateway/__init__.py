"""The gateway: takes events, items and traits over HTTP, in the formats of trackers, and writes them to the log."""
