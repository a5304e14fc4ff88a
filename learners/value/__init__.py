"""The value of shoppers: what they will spend, who is about to leave, and what late truth changes of it."""
