"""Profiles: what is known of each shopper, and how sure that is."""
