"""Producers: programs that write events to the log."""
