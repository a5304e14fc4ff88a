"""Gorse's routes: those that write, those that ask the server of answers, and those that are not offered.

Source: Gorse, `server/rest.go`, `CreateWebService`.
"""

from typing import Final

from producers.gateway.gorse import items, lists, users, writes
from producers.gateway.gorse.forms import (
    GorseFeedback,
    GorseFeedbacks,
    GorseItem,
    GorseItems,
    GorseScore,
    GorseSuccess,
    GorseUser,
    GorseUsers,
)
from producers.gateway.route import Call, Route, Unoffered

ROUTES: Final = (
    Route("POST", "/api/feedback", "ingest", writes.feedback, "Gorse: insert feedback.", "gorse"),
    Route("PUT", "/api/feedback", "ingest", writes.feedback, "Gorse: the same, as events are not replaced.", "gorse"),
    Route("POST", "/api/user", "operate", writes.user, "Gorse: insert a user.", "gorse"),
    Route("POST", "/api/users", "operate", writes.users, "Gorse: insert users.", "gorse"),
    Route("PATCH", "/api/user/{id}", "operate", writes.user_patch, "Gorse: modify a user.", "gorse"),
    Route("POST", "/api/item", "operate", writes.item, "Gorse: insert an item; replaces what was.", "gorse"),
    Route("POST", "/api/items", "operate", writes.items, "Gorse: insert items; replaces what was.", "gorse"),
    Route("DELETE", "/api/item/{id}", "operate", writes.retired_item, "Gorse: an item is no longer sold.", "gorse"),
)  # fmt: skip
_LIST: Final = ("n", "offset")
_PAGE: Final = ("n", "cursor")
CALLS: Final = (
    Call("GET", "/api/recommend/{user}", "read", lists.recommend, list[str], "Gorse: recommend items to a user.",
         (*_LIST, "category", "write-back-type", "write-back-delay")),
    Call("GET", "/api/recommend/{user}/{category}", "read", lists.recommend, list[str],
         "Gorse: the same, of a category.", (*_LIST, "write-back-type", "write-back-delay")),
    Call("POST", "/api/session/recommend", "read", lists.session, list[GorseScore],
         "Gorse: recommend items for a visit.", _LIST, body="array"),
    Call("POST", "/api/session/recommend/{category}", "read", lists.session, list[GorseScore],
         "Gorse: the same, of a category.", _LIST, body="array"),
    Call("GET", "/api/popular", "read", lists.popular, list[GorseScore], "Gorse: popular items.", (*_LIST, "user-id")),
    Call("GET", "/api/popular/{category}", "read", lists.popular, list[GorseScore], "Gorse: the same, of a category.",
         (*_LIST, "user-id")),
    Call("GET", "/api/latest", "read", lists.latest, list[GorseScore], "Gorse: the newest items.", (*_LIST, "user-id")),
    Call("GET", "/api/latest/{category}", "read", lists.latest, list[GorseScore], "Gorse: the same, of a category.",
         (*_LIST, "user-id")),
    Call("GET", "/api/item/{item}/neighbors", "read", lists.neighbors, list[GorseScore], "Gorse: items like an item.",
         (*_LIST, "user-id")),
    Call("GET", "/api/item/{item}/neighbors/{category}", "read", lists.neighbors, list[GorseScore],
         "Gorse: the same, of a category.", (*_LIST, "user-id")),
    Call("PUT", "/api/item/{item}/category/{category}", "operate", items.add_category, GorseSuccess,
         "Gorse: add a category."),
    Call("DELETE", "/api/item/{item}/category/{category}", "operate", items.remove_category, GorseSuccess,
         "Gorse: remove a category."),
    Call("GET", "/api/item/{id}", "read", items.item, GorseItem, "Gorse: get an item."),
    Call("PATCH", "/api/item/{id}", "operate", items.patch_item, GorseSuccess, "Gorse: modify an item.", body="object"),
    Call("GET", "/api/items", "read", items.items, GorseItems, "Gorse: get items, or search them.", (*_PAGE, "q")),
    Call("GET", "/api/user/{user}/feedback", "read", users.user_feedback, list[GorseFeedback],
         "Gorse: the feedback of a user."),
    Call("GET", "/api/user/{user}/feedback/{type}", "read", users.user_feedback, list[GorseFeedback],
         "Gorse: the same, of a type."),
    Call("GET", "/api/user/{id}", "read", users.user, GorseUser, "Gorse: get a user."),
    Call("GET", "/api/users", "read", users.users, GorseUsers, "Gorse: get users.", _PAGE),
    Call("GET", "/api/feedback", "read", users.feedback, GorseFeedbacks, "Gorse: get feedback.", _PAGE),
    Call("GET", "/api/feedback/{type}", "read", users.feedback, GorseFeedbacks, "Gorse: the same, of a type.", _PAGE),
    Call("GET", "/api/feedback/{user}/{item}", "read", users.pair_feedback, list[GorseFeedback],
         "Gorse: what a user did with an item."),
    Call("GET", "/api/feedback/{type}/{user}/{item}", "read", users.one_feedback, GorseFeedback,
         "Gorse: the same, of a type."),
    Call("DELETE", "/api/feedback/{user}/{item}", "operate", users.delete_feedback, GorseSuccess,
         "Gorse: take back feedback."),
    Call("DELETE", "/api/feedback/{type}/{user}/{item}", "operate", users.delete_feedback, GorseSuccess,
         "Gorse: the same, of a type."),
)  # fmt: skip
UNOFFERED: Final = (
    Unoffered(
        "DELETE", "/api/user/{user}", "events stay in the log until its retention ends, so a user cannot be deleted"
    ),
    Unoffered("GET", "/api/user/{user}/neighbors", "no list of similar users is kept"),
    Unoffered("GET", "/api/item/{item}/feedback", "feedback is kept by user, not by item; GET /api/feedback lists all"),
    Unoffered(
        "GET", "/api/item/{item}/feedback/{type}",
        "feedback is kept by user, not by item; GET /api/feedback/{type} lists all",
    ),
    Unoffered("GET", "/api/measurements/{name}", "the scores are metrics: docs/metrics.md"),
)  # fmt: skip
