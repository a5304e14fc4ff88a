"""Processes that read the log and write results."""
