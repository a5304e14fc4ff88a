"""What every event passes before the other families learn it."""
