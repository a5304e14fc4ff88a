"""Answers of a server, as examples of the routes."""

from typing import Final

RECOMMENDATIONS: Final = """{
  "recommendation_id": "6cbea72fe100429386c64a1e6b768be2",
  "kind": "recommended",
  "shopper": "shopper-1",
  "placement": "",
  "items": [
    {
      "item_id": "item-00853", "score": 0.0154,
      "reason": {
        "code": "viewed_together", "item_id": "item-00847", "text": "often viewed together with Linen shirt 847"
      },
      "name": "Linen shirt 853", "brand": "brand-07", "category": "shirts", "price": 39.9, "currency": "EUR",
      "link": "", "image_link": ""
    }
  ],
  "next_page": "r2q0bXU",
  "rules": {"version": null, "left_out": {"seen": 2}, "left_nothing": []},
  "experiments": {},
  "explored": null,
  "segments": [],
  "model": "r0005-fefda4b4",
  "logged": true,
  "fresh": {"entry": 153, "newest_event_ms": 1738529381084, "behind_s": 0.065}
}"""
LISTS: Final = """{
  "lists": [
    {
      "recommendation_id": "f63a59a5678948ec949299264ff58560-1", "kind": "recommended", "shopper": "shopper-1",
      "placement": "home",
      "items": [
        {
          "item_id": "item-00903", "score": 0.05181,
          "reason": {"code": "viewed_before", "item_id": "", "text": "viewed earlier in this visit"},
          "name": "Linen shirt 903", "brand": "brand-30", "category": "shirts", "price": 24.37,
          "currency": "EUR", "link": "", "image_link": ""
        }
      ],
      "next_page": "PB43zew", "rules": {"version": null, "left_out": {}, "left_nothing": []},
      "experiments": {}, "model": "", "explored": null, "segments": []
    },
    {
      "recommendation_id": "f63a59a5678948ec949299264ff58560-2", "kind": "trending", "shopper": "shopper-1",
      "placement": "",
      "items": [
        {
          "item_id": "item-01127", "score": 3.561,
          "reason": {"code": "trending", "item_id": "", "text": "viewed more and more in shirts"},
          "name": "Linen shirt 1127", "brand": "brand-37", "category": "shirts", "price": 19.08,
          "currency": "EUR", "link": "", "image_link": ""
        }
      ],
      "next_page": "i3PeR24", "rules": {"version": null, "left_out": {}, "left_nothing": []},
      "experiments": {}, "model": "", "explored": null, "segments": []
    }
  ],
  "model": "",
  "logged": true,
  "fresh": {"entry": 13, "newest_event_ms": 1738530597808, "behind_s": 0.067}
}"""
ITEM: Final = """{
  "item_id": "item-00847",
  "name": "Linen shirt 847",
  "brand": "brand-10",
  "category": "shirts",
  "price": 43.43,
  "currency": "EUR",
  "link": "",
  "image_link": "",
  "stated": true,
  "available": true,
  "retired": false,
  "popularity": 73.8,
  "first_ms": 1736234869448,
  "model": "",
  "fresh": {"entry": 13, "newest_event_ms": 1738530597808, "behind_s": 0.057}
}"""
ITEMS: Final = """{
  "items": [
    {
      "item_id": "item-00000", "name": "Linen shirt 0", "brand": "brand-08", "category": "shirts",
      "price": 31.02, "currency": "EUR", "link": "", "image_link": "", "stated": true, "available": true,
      "retired": false, "popularity": 2.683, "first_ms": 1736380416607
    },
    {
      "item_id": "item-00001", "name": "Linen shirt 1", "brand": "brand-26", "category": "shirts",
      "price": 10.97, "currency": "EUR", "link": "", "image_link": "", "stated": true, "available": true,
      "retired": false, "popularity": 18.803, "first_ms": 1737983930940
    }
  ],
  "next": "item-00001",
  "model": "",
  "fresh": {"entry": 13, "newest_event_ms": 1738530597808, "behind_s": 0.059}
}"""
SHOPPER: Final = """{
  "shopper": "shopper-1",
  "traits": {},
  "visit": [],
  "seen": [
    {"item_id": "item-01122", "times": 1, "newest_ms": 1738441796221},
    {"item_id": "item-00903", "times": 1, "newest_ms": 1738441435306}
  ],
  "carted": [
    {"item_id": "item-00915", "times": 1, "newest_ms": 1737813669993},
    {"item_id": "item-00247", "times": 1, "newest_ms": 1736717935071}
  ],
  "wished": [],
  "bought": [
    {"item_id": "item-00915", "times": 1, "newest_ms": 1737813906407},
    {"item_id": "item-00247", "times": 1, "newest_ms": 1736718181557}
  ],
  "model": "",
  "fresh": {"entry": 13, "newest_event_ms": 1738530597808, "behind_s": 0.099}
}"""
SHOPPERS: Final = """{
  "shoppers": [
    {"shopper": "shopper-1", "traits": {}, "seen": 59, "bought": 2},
    {"shopper": "shopper-2", "traits": {}, "seen": 46, "bought": 3}
  ],
  "next": "shopper-2",
  "model": "",
  "fresh": {"entry": 13, "newest_event_ms": 1738530597808, "behind_s": 0.052}
}"""
HISTORY: Final = """{
  "entries": [
    {"shopper": "shopper-1", "item_id": "item-00037", "kind": "seen", "times": 1, "newest_ms": 1737813639077},
    {"shopper": "shopper-1", "item_id": "item-00039", "kind": "seen", "times": 1, "newest_ms": 1736718151517}
  ],
  "next": "k65zaG9wcGVyLTAwMDAwMKppdGVtLTAwMDM5pHNlZW4",
  "model": "",
  "fresh": {"entry": 13, "newest_event_ms": 1738530597808, "behind_s": 0.055}
}"""
