"""When to order how much of which item, and which items are about to be sold out or do not sell."""
