"""Gorse's REST: its clients write to the log and are answered by Headrace, without a change."""
