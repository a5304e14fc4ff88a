"""What reads the log and writes results."""
