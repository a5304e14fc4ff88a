"""Segments: groups of shoppers, by rules that a person states and by clusters that are learned."""
