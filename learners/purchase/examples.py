"""The example of an answer about purchase intent on the docs page."""

from typing import Final

INTENT: Final = """{
  "shopper": "shopper-000817", "started_ms": 1738598887094, "newest_ms": 1738598887094, "events": 1,
  "probability": 0.1077, "answered_by": "visit", "raw": {"items": 0.0, "visit": 0.1244}, "base": -1.6704,
  "reasons": [
    {"name": "promotions", "value": 1.0, "adds": 0.9521},
    {"name": "chance of the items", "value": 0.0, "adds": -0.743},
    {"name": "days since the last visit", "value": 16.9108, "adds": -0.633},
    {"name": "highest chance of an item", "value": 0.0, "adds": 0.3},
    {"name": "minutes", "value": 0.0, "adds": 0.215},
    {"name": "items in the cart", "value": 0.0, "adds": -0.1835}
  ],
  "base_rate": 0.1647, "learned": 5518,
  "fresh": {"entry": 153, "newest_event_ms": 1738598887094, "behind_s": 0.065}
}"""
