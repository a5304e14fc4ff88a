"""What writes the log."""
