"""The log: its protocol and its three implementations (one SQLite file, Kafka, memory for tests)."""
