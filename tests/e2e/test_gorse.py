"""PyGorse, a client for Gorse, is pointed at a gateway: each of its calls does what it should, or says why not."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from gorse import AsyncGorse, Gorse, GorseException, Score

from headrace.keys import create
from operators.child import Child, Children

READ, STAR, BUY, CART = "read", "star", "purchase", "cart"
VISITS = (("ann", "boots", "hat", "scarf"), ("bob", "boots", "hat"), ("eve", "hat", "scarf", "gloves"))


class Shop(NamedTuple):
    """A gateway with a learning shard and a server of answers behind it."""

    children: Children
    address: str
    operate: str
    read: str
    serve: Child

    def client(self, key: str = "") -> Gorse:
        return Gorse(self.address, key or self.operate, timeout=30)

    def wait(self, what: str, found: Callable[[], bool]) -> None:
        """Wait until answers know what was written; what is not known yet is 404."""

        def known() -> bool:
            try:
                return found()
            except GorseException as error:
                if error.status_code not in (404, 503):
                    raise
                return False

        self.children.wait_until(what, known, 60)


def start(url: str, folder: Path, children: Children, *, named: bool) -> Shop:
    """Start the shop's processes. `named`: answers show the shop's own ids, as pseudonyms are switched off."""
    keys = folder / "headrace-data/keys.json"
    operate = create(keys, "acme", "operate", now_ms=0)[1]
    read = create(keys, "acme", "read", now_ms=0)[1]
    (folder / "headrace.toml").write_text('[gateway.gorse_feedback]\nstar = "add_to_wishlist"\ndislike = ""\n')
    common = ["--log", url, "--blobs", str(folder / "blobs")]
    children.start("online", "online", *common, "--metrics-port", "0", up=False)
    serve = children.start("serve", "serve", *common, "--port", "0", "--set", "serve.require_key=true", up=False)
    serve.wait_until_up()
    sets = (
        "gateway.port=0", f"gateway.answers={serve.address}", f"gateway.pseudonymise={str(not named).lower()}",
    )  # fmt: skip
    gateway = children.start(
        "gateway", "gateway", "--log", url, "--metrics-port", "0", *(f"--set={one}" for one in sets)
    )
    found = re.search(r"takes (http://[^/]+)/", gateway.text)
    assert found
    return Shop(children, found[1], operate, read, serve)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("gorse")
    with Children(folder, cwd=folder) as children:
        found = start(f"sqlite:{folder / 'log.db'}", folder, children, named=True)
        fill(found)
        yield found
        print(children.tails())


def stated(type_: str, user: str, item: str, minute: int) -> dict[str, Any]:
    return {
        "FeedbackType": type_, "UserId": user, "ItemId": item, "Timestamp": f"2026-03-01T10:{minute:02}:00Z",
        "Comment": "",
    }  # fmt: skip


def fill(shop: Shop) -> None:
    """Insert what a shop has: items, users, and feedback; wait until answers know it."""
    client = shop.client()
    for item, categories in (
        ("boots", ["shoes", "boots"]),
        ("hat", ["wear"]),
        ("scarf", ["wear"]),
        ("gloves", ["wear"]),
    ):
        inserted = client.insert_item(
            {"ItemId": item, "IsHidden": False, "Labels": {"brand": "Acme", "price": "9.50 EUR", "mood": "calm"},
             "Categories": categories, "Timestamp": "2026-02-24T00:00:00Z", "Comment": f"Fine {item}"}
        )  # fmt: skip
        assert inserted == {"RowAffected": 1}
    assert client.insert_user({"UserId": "ann", "Labels": {"country": "NO", "email": "a@b.c"}, "Comment": "x"}) == {
        "RowAffected": 1
    }
    assert client.insert_users([{"UserId": "bob", "Labels": {}}, {"UserId": "zoe", "Labels": {"plan": "gold"}}]) == {
        "RowAffected": 2
    }
    given = [stated(READ, user, item, minute) for user, *items in VISITS for minute, item in enumerate(items)]
    assert client.insert_feedbacks(given) == {"RowAffected": len(given)}
    assert client.insert_feedback(STAR, "ann", "hat", "2026-03-01T10:20:00Z", 1.0) == {"RowAffected": 1}
    assert client.insert_feedback(BUY, "bob", "boots", "2026-03-01T10:21:00Z") == {"RowAffected": 1}
    shop.wait(
        "purchases and stars are known",
        lambda: client.list_feedbacks(BUY, "bob") != [] != client.list_feedbacks(STAR, "ann"),
    )
    shop.wait(
        "views are known", lambda: all(len(client.list_feedbacks(READ, user)) == len(items) for user, *items in VISITS)
    )
    shop.wait("items and users are known", lambda: bool(client.get_item("gloves")["Labels"] and client.get_user("zoe")))


def test_items(shop: Shop) -> None:
    client = shop.client()
    boots = client.get_item("boots")
    assert boots.pop("Timestamp") > "2026"
    assert boots == {
        "ItemId": "boots", "IsHidden": False, "Categories": ["shoes", "boots"], "Comment": "Fine boots",
        "Labels": {"brand": "Acme", "price": 9.5, "currency": "EUR"},
    }  # fmt: skip
    found, cursor = client.get_items(3)
    more, end = client.get_items(3, cursor)
    assert [one["ItemId"] for one in found + more] == ["boots", "gloves", "hat", "scarf"]
    assert cursor
    assert not end
    assert [one["ItemId"] for one in client.search_items("FINE h")] == ["hat"]
    with pytest.raises(GorseException) as unknown:
        client.get_item("nothing")
    assert unknown.value.status_code == 404


def test_items_change_and_go(shop: Shop) -> None:
    client = shop.client()
    client.insert_item({"ItemId": "cap", "Categories": ["wear"], "Labels": {"brand": "Acme"}, "Comment": "Cap"})
    # What is changed at once, before answers know the item, keeps what was stated.
    assert client.update_item("cap", is_hidden=True) == {"RowAffected": 1}
    assert client.update_item("cap", categories=["wear", "caps"], comment="A cap") == {"RowAffected": 1}
    shop.wait("answers know the change", lambda: client.get_item("cap")["Categories"] == ["wear", "caps"])
    cap = client.get_item("cap")
    assert (cap["IsHidden"], cap["Comment"], cap["Labels"]) == (True, "A cap", {"brand": "Acme"})
    key = {"x-api-key": shop.operate}
    assert httpx.put(f"{shop.address}/api/item/cap/category/new", headers=key).json() == {"RowAffected": 1}
    assert httpx.delete(f"{shop.address}/api/item/cap/category/caps", headers=key).json() == {"RowAffected": 1}
    shop.wait("categories change", lambda: client.get_item("cap")["Categories"] == ["wear", "new"])
    assert client.delete_item("cap") == {"RowAffected": 1}
    with pytest.raises(GorseException) as gone:
        client.update_item("cap", comment="back")
    assert gone.value.status_code == 404
    shop.wait("it is gone", lambda: "cap" not in [one["ItemId"] for one in client.get_items(10)[0]])
    with pytest.raises(GorseException):
        client.get_item("cap")


def test_users(shop: Shop) -> None:
    client = shop.client()
    assert client.get_user("ann") == {"UserId": "ann", "Labels": {"country": "NO"}, "Comment": ""}
    assert client.get_user("bob")["Labels"] == {}
    found, cursor = client.get_users(2)
    more, end = client.get_users(10, cursor)
    assert [one["UserId"] for one in found + more if one["UserId"] in ("ann", "bob", "eve", "zoe")] == [
        "ann", "bob", "eve", "zoe"
    ]  # fmt: skip
    assert not end
    patched = httpx.patch(
        f"{shop.address}/api/user/bob", json={"Labels": {"plan": "free"}}, headers={"x-api-key": shop.operate}
    )
    assert patched.json() == {"RowAffected": 1}
    shop.wait("labels change", lambda: client.get_user("bob")["Labels"] == {"plan": "free"})
    with pytest.raises(GorseException) as kept:
        client.delete_user("ann")
    assert kept.value.status_code == 501
    assert "events stay in the log" in kept.value.message
    with pytest.raises(GorseException) as unknown:
        client.get_user("nobody")
    assert unknown.value.status_code == 404


def test_feedback(shop: Shop) -> None:
    client = shop.client()
    (star,) = client.list_feedbacks(STAR, "ann")
    assert star.pop("Timestamp") > "2026-03-01"
    assert star == {"FeedbackType": STAR, "UserId": "ann", "ItemId": "hat", "Value": 1.0, "Comment": ""}
    assert {one["ItemId"] for one in client.list_feedbacks(READ, "ann")} == {"boots", "hat", "scarf"}
    assert client.list_feedbacks(READ, "nobody") == []
    found, cursor = client.get_feedbacks(4)
    assert len(found) == 4
    while cursor:
        page, cursor = client.get_feedbacks(4, cursor)
        found += page
    kinds = {(one["FeedbackType"], one["UserId"], one["ItemId"]) for one in found}
    assert len(kinds) == len(found)
    assert kinds >= {(READ, user, item) for user, *items in VISITS for item in items} | {
        (STAR, "ann", "hat"), (BUY, "bob", "boots"),
    }  # fmt: skip
    headers = {"x-api-key": shop.read}
    assert httpx.get(f"{shop.address}/api/feedback/{BUY}/bob/boots", headers=headers).json()["ItemId"] == "boots"
    assert httpx.get(f"{shop.address}/api/feedback/{BUY}/bob/hat", headers=headers).status_code == 404
    pair = httpx.get(f"{shop.address}/api/feedback/bob/boots", headers=headers).json()
    assert {one["FeedbackType"] for one in pair} == {READ, BUY}
    refused = client.insert_feedbacks
    with pytest.raises(GorseException) as unknown:
        refused([stated("hug", "ann", "hat", 1), stated(READ, "ann", "never", 1)])
    assert unknown.value.status_code == 400
    assert "hug" in unknown.value.message
    assert client.insert_feedback("dislike", "ann", "hat", "2026-03-01T10:00:00Z") == {"RowAffected": 1}
    assert "never" not in {
        one["ItemId"] for one in client.list_feedbacks(READ, "ann")
    }  # nothing is taken of a bad body


def test_feedback_is_repeated_and_taken_back(shop: Shop) -> None:
    client = shop.client()
    once = [stated(CART, "kim", "hat", 1), stated(BUY, "kim", "boots", 2), stated(READ, "kim", "scarf", 3)]
    for _ in range(2):  # the repetition is no further feedback
        client.insert_feedbacks(once)
    again = httpx.put(
        f"{shop.address}/api/feedback", json=[stated(CART, "kim", "hat", 4)], headers={"x-api-key": shop.operate}
    )
    assert again.json() == {"RowAffected": 1}
    shop.wait("both are known", lambda: [one["Value"] for one in client.list_feedbacks(CART, "kim")] == [2])
    assert client.list_feedbacks(BUY, "kim")[0]["Value"] == 1
    assert client.delete_feedback("kim", "boots") == {"RowAffected": 1}
    shop.wait("the purchase is taken back", lambda: client.list_feedbacks(BUY, "kim") == [])
    assert client.delete_feedback("kim", "scarf") == {"RowAffected": 0}
    assert {one["ItemId"] for one in client.list_feedbacks(READ, "kim")} == {"boots", "hat", "scarf"}


def test_lists(shop: Shop) -> None:
    client = shop.client(shop.read)
    scores = client.get_recommend("new-user", n=3)
    assert [type(one) for one in scores] == [Score] * 3
    rest = client.get_recommend("new-user", n=2, offset=1)
    assert [one.id for one in rest] == [one.id for one in scores[1:]]
    assert {one.id for one in client.get_recommend("new-user", "wear")} == {"hat", "scarf", "gloves"}
    plain = httpx.get(f"{shop.address}/api/recommend/new-user?n=3", headers={"x-api-key": shop.read}).json()
    assert plain == [one.id for one in scores]
    near = client.get_neighbors("boots", n=2)
    assert near[0]["Id"] == "hat"
    assert set(near[0]) == {"Id", "Score"}
    assert [one["Id"] for one in client.get_neighbors("boots", n=1, offset=1)] == [near[1]["Id"]]
    visit = client.session_recommend([stated(READ, "", "boots", 1)], n=2)
    assert "boots" not in {one["Id"] for one in visit}
    assert len(visit) == 2
    for path in ("popular", "latest", "popular/wear", "latest/wear", "item/hat/neighbors/wear"):
        found = httpx.get(f"{shop.address}/api/{path}?n=2", headers={"x-api-key": shop.read})
        assert found.status_code == 200
        assert all(set(one) == {"Id", "Score"} for one in found.json())
        assert found.json()


def test_what_was_recommended_is_written_back_as_shown(shop: Shop) -> None:
    client = shop.client()
    found = client.get_recommend("lea", n=2, write_back_type=READ, write_back_delay="10m")
    assert len(found) == 2
    assert client.list_feedbacks(READ, "lea") == []  # a list that was shown is no view
    with pytest.raises(GorseException) as only_reads:
        shop.client(shop.read).get_recommend("lea", n=2, write_back_type=READ)
    assert only_reads.value.status_code == 403


def test_keys_and_bad_questions(shop: Shop) -> None:
    with pytest.raises(GorseException) as no_key:
        shop.client("hr_wrong").get_recommend("ann")
    assert no_key.value.status_code == 401
    with pytest.raises(GorseException) as forbidden:
        shop.client(shop.read).delete_item("hat")
    assert forbidden.value.status_code == 403
    with pytest.raises(GorseException) as too_many:
        shop.client().get_recommend("ann", n=5_000)
    assert too_many.value.status_code == 400
    assert "n: wanted 1 to 1000" in too_many.value.message
    for path in ("item/hat/feedback", f"item/hat/feedback/{READ}", "user/ann/neighbors", "measurements/x"):
        found = httpx.get(f"{shop.address}/api/{path}", headers={"x-api-key": shop.operate})
        assert (found.status_code, found.json()["type"]) == (501, "urn:headrace:problem:not-offered")


async def until(ask: Callable[[], Awaitable[Any]], right: Callable[[Any], bool]) -> None:
    """Wait until a question has the right answer; what is not known yet is 404."""
    async with asyncio.timeout(60):
        while True:
            with suppress(GorseException):
                if right(await ask()):
                    return
            await asyncio.sleep(0.1)


def test_the_asynchronous_client(shop: Shop) -> None:
    client = AsyncGorse(shop.address, shop.operate)
    item = {"ItemId": "belt", "Categories": ["wear"], "Labels": {}, "Comment": "Belt"}

    async def call_everything() -> None:
        assert await client.insert_item(item) == {"RowAffected": 1}
        assert await client.update_item("belt", comment="A belt") == {"RowAffected": 1}
        assert await client.insert_user({"UserId": "max", "Labels": {"plan": "gold"}}) == {"RowAffected": 1}
        assert await client.insert_users([{"UserId": "mia", "Labels": {}}]) == {"RowAffected": 1}
        assert await client.insert_feedback(READ, "max", "belt", "2026-03-01T10:00:00Z") == {"RowAffected": 1}
        assert await client.insert_feedbacks([stated(BUY, "max", "belt", 5)]) == {"RowAffected": 1}
        await until(lambda: client.list_feedbacks(BUY, "max"), bool)
        await until(lambda: client.get_item("belt"), lambda found: found["Comment"] == "A belt")
        await until(lambda: client.get_user("max"), lambda found: found["Labels"] == {"plan": "gold"})
        assert (await client.get_items(1))[0][0]["ItemId"] == "belt"
        assert (await client.get_users(1))[0]
        assert (await client.get_feedbacks(1))[0]
        assert [one["ItemId"] for one in await client.search_items("belt")] == ["belt"]
        assert len(await client.get_recommend("max", n=2)) == 2
        assert len(await client.session_recommend([stated(READ, "", "hat", 1)], n=2)) == 2
        assert len(await client.get_neighbors("hat", n=2)) == 2
        assert await client.delete_feedback("max", "belt") == {"RowAffected": 1}
        assert await client.delete_item("belt") == {"RowAffected": 1}
        with pytest.raises(GorseException):
            await client.delete_user("max")

    asyncio.run(call_everything())


def test_each_call_of_the_clients_is_in_these_tests() -> None:
    asynchronous = inspect.getsource(test_the_asynchronous_client)
    others = Path(__file__).read_text().replace(asynchronous, "")
    for kind, text in ((Gorse, others), (AsyncGorse, asynchronous)):
        calls = [call for call, _ in inspect.getmembers(kind, inspect.isfunction) if not call.startswith("_")]
        assert len(calls) == 19
        assert [call for call in calls if f"client.{call}(" not in text] == []


def test_a_server_that_is_away(shop: Shop) -> None:
    """The last one of the module: it stops the server."""
    shop.serve.kill()
    with pytest.raises(GorseException) as away:
        shop.client().get_recommend("ann")
    assert away.value.status_code == 503
    found = httpx.get(f"{shop.address}/api/popular", headers={"x-api-key": shop.operate})
    assert found.headers["retry-after"] == "2"
    assert found.json()["type"] == "urn:headrace:problem:no-answers"
    assert shop.client().insert_feedback(READ, "ann", "hat", "2026-03-01T11:00:00Z") == {"RowAffected": 1}


@pytest.mark.parametrize("log_url", ["sqlite"], indirect=True)  # on Kafka: test_gateway
@pytest.mark.timeout(240)
def test_ids_are_pseudonyms_but_those_that_were_asked_for(log_url: str, tmp_path: Path) -> None:
    with Children(tmp_path, cwd=tmp_path) as children:
        found = start(log_url, tmp_path, children, named=False)
        client = found.client()
        client.insert_item({"ItemId": "hat", "Labels": {}, "Categories": []})
        client.insert_user({"UserId": "ann", "Labels": {"plan": "gold"}})
        client.insert_feedback(STAR, "ann", "hat", "2026-03-01T10:00:00Z")
        found.wait("feedback is known", lambda: bool(client.list_feedbacks(STAR, "ann")))
        found.wait("the user is known", lambda: bool(client.get_user("ann")["Labels"]))
        assert client.list_feedbacks(STAR, "ann")[0]["UserId"] == "ann"
        assert client.get_user("ann") == {"UserId": "ann", "Labels": {"plan": "gold"}, "Comment": ""}
        assert [one["UserId"][:3] for one in client.get_users(10)[0]] == ["p1."]
        assert {one["UserId"][:3] for one in client.get_feedbacks(10)[0]} == {"p1."}
        print(children.tails())
