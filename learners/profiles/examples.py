"""The example of an answer on the docs page."""

from typing import Final

PROFILE: Final = """{
  "shopper": "shopper-000176", "since_ms": 1736691046360, "newest_ms": 1738595990825, "stated": {},
  "traits": {
    "seen_days": {"value": 0.3922, "confidence": 1.0, "evidence": 3, "since_ms": 1736691046360},
    "known_days": {"value": 22.4402, "confidence": 1.0, "evidence": 3, "since_ms": 1736691046360},
    "visits": {"value": 3.0, "confidence": 1.0, "evidence": 3, "since_ms": 1736691046360},
    "views_per_visit": {"value": 7.6667, "confidence": 0.6, "evidence": 3, "since_ms": 1736691046360},
    "carts_per_visit": {"value": 2.0, "confidence": 0.6, "evidence": 3, "since_ms": 1736691046360},
    "searches_per_visit": {"value": 0.3333, "confidence": 0.6, "evidence": 3, "since_ms": 1736691046360},
    "orders": {"value": 3.0, "confidence": 1.0, "evidence": 3, "since_ms": 1736691046360},
    "orders_per_visit": {"value": 1.0, "confidence": 0.6, "evidence": 3, "since_ms": 1736691046360},
    "orders_per_month": {"value": 3.0, "confidence": 0.6, "evidence": 3, "since_ms": 1736691432913},
    "order_days": {"value": 0.3922, "confidence": 1.0, "evidence": 3, "since_ms": 1736691432913},
    "order_gap_days": {"value": 11.0217, "confidence": 0.5, "evidence": 2, "since_ms": 1736691432913},
    "order_gap_spread": {"value": 9.3793, "confidence": 0.5, "evidence": 2, "since_ms": 1736691432913},
    "money": {"value": 99.76, "confidence": 1.0, "evidence": 3, "since_ms": 1736691046360},
    "order_value": {"value": 33.2533, "confidence": 0.6, "evidence": 3, "since_ms": 1736691432913},
    "order_units": {"value": 2.3333, "confidence": 0.6, "evidence": 3, "since_ms": 1736691432913},
    "refunded_share": {"value": 0.0, "confidence": 0.6, "evidence": 3, "since_ms": 1736691432913},
    "price_level": {"value": 0.9108, "confidence": 0.9128, "evidence": 35, "since_ms": 1736691091570},
    "lowered_share": {"value": 0.1667, "confidence": 0.75, "evidence": 6, "since_ms": 1736691432913},
    "promoted_share": {"value": 0.0, "confidence": 0.6, "evidence": 3, "since_ms": 1736691432913}
  },
  "tastes": {
    "category": [
      {"value": "category-16", "share": 0.2968, "confidence": 0.9128, "evidence": 8, "since_ms": 1736691269157},
      {"value": "category-17", "share": 0.2123, "confidence": 0.9128, "evidence": 10, "since_ms": 1736691091570}
    ],
    "brand": [
      {"value": "brand-17", "share": 0.3335, "confidence": 0.9128, "evidence": 10, "since_ms": 1736691091570},
      {"value": "brand-37", "share": 0.3255, "confidence": 0.9128, "evidence": 9, "since_ms": 1736691229259}
    ],
    "price": [
      {"value": "8-16", "share": 0.6228, "confidence": 0.9128, "evidence": 18, "since_ms": 1736691229259},
      {"value": "16-32", "share": 0.3078, "confidence": 0.9128, "evidence": 13, "since_ms": 1736691091570}
    ],
    "hour": [
      {"value": "15", "share": 0.4413, "confidence": 0.3098, "evidence": 1, "since_ms": 1738595675600},
      {"value": "23", "share": 0.2934, "confidence": 0.3098, "evidence": 1, "since_ms": 1737070344514}
    ],
    "weekday": [
      {"value": "Mon", "share": 0.4413, "confidence": 0.3098, "evidence": 1, "since_ms": 1738595675600},
      {"value": "Thu", "share": 0.2934, "confidence": 0.3098, "evidence": 1, "since_ms": 1737070344514}
    ],
    "channel": [
      {"value": "simulate:1-545a5ca9", "share": 1.0, "confidence": 0.3098, "evidence": 3, "since_ms": 1736691046360}
    ]
  },
  "visit": {
    "session_id": "shopper-000176-3", "started_ms": 1738595675600, "newest_ms": 1738595990825, "device": "",
    "events": 11, "views": 7, "carts": 2, "searches": 0, "orders": 1, "promotion_followed": false
  },
  "fresh": {"entry": 153, "newest_event_ms": 1738629876084, "behind_s": 0.065}
}"""
