"""The examples of answers on the docs page."""

from typing import Final

SIZES: Final = """{
  "version": 17,
  "shoppers": 2185,
  "segments": [
    {"segment": "loyal", "shoppers": 2, "share": 0.0009, "entered": 2, "left": 0,
     "where": "orders >= 3 and order_days <= 60", "about": "come back often", "differs": {}}
  ],
  "clusters": [
    {"segment": "c1", "shoppers": 397, "share": 0.1817, "entered": 491, "left": 109, "where": "", "about": "",
     "differs": {"seen_days": 1.15, "order_days": 0.97, "evening": -0.96}},
    {"segment": "c2", "shoppers": 215, "share": 0.0984, "entered": 268, "left": 53, "where": "", "about": "",
     "differs": {"order_units": 1.85, "order_value": 1.84, "money": 1.83}}
  ],
  "fresh": {"entry": 153, "newest_event_ms": 1738629876084, "behind_s": 0.065}
}"""
MEMBERS: Final = """{
  "segment": "loyal",
  "shoppers": ["shopper-000176", "shopper-000561"],
  "next": "shopper-000561",
  "fresh": {"entry": 153, "newest_event_ms": 1738629876084, "behind_s": 0.065}
}"""
SHOPPER: Final = """{
  "shopper": "shopper-000176",
  "segments": ["loyal"],
  "cluster": "c8",
  "fresh": {"entry": 153, "newest_event_ms": 1738629876084, "behind_s": 0.065}
}"""
