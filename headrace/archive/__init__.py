"""The archive: what a log held, in Parquet files by day, and a log that goes on where a log begins."""
