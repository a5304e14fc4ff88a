"""What will sell: pieces of each item within the next weeks, with intervals."""
