"""The doctor: checks of a log, its blobs and its processes, each a small function that finds what is wrong."""
