"""The shared language of Headrace: events, topics, the log, the loop. It imports nothing else of ours."""

__version__ = "0.4.0.dev0"
