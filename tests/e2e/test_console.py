"""The console in a real browser, and what an adversary tries; on a shop with drift, a bad candidate and a flood."""

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec
import pytest

from headrace.drift import Silence
from headrace.drift import decode as silence_in
from headrace.experiment_reports import Report
from headrace.log.protocol import Outgoing, Partition
from headrace.log.scan import topic_records
from headrace.topics import ALARMS, EVENTS, SILENCES
from learners.families import FAMILIES
from operators.catalogue import catalogue
from operators.console import card
from operators.console.app import Page
from operators.console.audit import Line
from operators.console.doors import COOKIE
from operators.console.pages import PAGES
from operators.console.people import Role, add, remove
from operators.experiments import stated_experiments
from operators.overview import QUESTIONS
from operators.requests import standing
from operators.rules import stated_rules
from producers.redrive import decisions
from tests.console_shop import ATTACK, Browser, ConsoleShop, console_shop

AXE = (Path(__file__).parents[1] / "vendor/axe.min.js").read_text(encoding="utf-8")
RULES = {"light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"], "dark": ["color-contrast"]}
"""What is checked in each scheme: only colours differ."""
CHECK = """
const [rules, done] = arguments
axe.run(document, {runOnly: rules})
  .then((found) => done(found.violations.map((one) => `${one.id}: ${one.nodes.slice(0, 3).map((node) => node.html)}`)))
"""
OPENED = [
    *(page.path for page in PAGES if page.method == "GET" and page.path not in (
        "/replay", "/replay/picture", "/gate", "/experiment", "/letter", "/item", "/shopper", "/find", "/command",
        "/pages/{name}",
    )),
    "/letter?id=events/0/901", "/experiment?name=front", "/experiment?name=duel",
    f"/item?id={quote('</td><b>')}", "/shopper?id=shopper-000001", "/events?id=0/5",
    *(f"/pages/{page.name}" for kind in FAMILIES for page in kind.surface.pages),
]  # fmt: skip
"""Every page, those of one thing with a thing that is there."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleShop]:
    with console_shop(tmp_path_factory.mktemp("shop")) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(shop: ConsoleShop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(shop.address, tmp_path_factory.mktemp("browser"))
    opened.log_in(shop.keys["administer"])
    yield opened
    opened.close()


class Tags(HTMLParser):
    """Finds scripts and styles within a page, which the content policy refuses and nobody may have put there."""

    def __init__(self) -> None:
        super().__init__()
        self.within: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if tag == "style" or (tag == "script" and "src" not in names) or "style" in names:
            self.within.append(tag)
        self.within += [name for name in names if name.startswith("on")]


def token_of(client: httpx.Client) -> str:
    found: set[str] = set(re.findall(r'name="token" value="([^"]+)"', client.get("/rules").text))
    return found.pop()


def audited(shop: ConsoleShop) -> list[Line]:
    lines = (shop.folder / "headrace-data/console-audit.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Line) for line in lines]


@pytest.mark.parametrize("path", OPENED)
def test_each_page_is_accessible_and_harmless(browser: Browser, path: str) -> None:
    check_page(browser, path, "light")


DARK = ("/", "/quality", "/models", "/letters", "/rules", "/shopper?id=shopper-000001", "/pages/value")
"""Pages that have every element whose colour differs in the dark."""


@pytest.mark.parametrize(
    "path",
    [*DARK, *(pytest.param(path, marks=pytest.mark.full) for path in OPENED if path not in DARK)],  # as said there
)
def test_pages_are_accessible_in_the_dark(browser: Browser, path: str) -> None:
    check_page(browser, path, "dark")


def check_page(browser: Browser, path: str, scheme: str) -> None:
    """Check that a page is accessible and runs nothing that is not ours."""
    browser.colours(scheme)
    try:
        browser.open(path)
        browser.run(AXE)
        assert browser.driver.execute_async_script(CHECK, RULES[scheme]) == []
        assert browser.run("return window.attacked") is None
        assert browser.complaints() == []
        assert browser.find("h1").text
    finally:
        browser.colours("light")


def test_the_front_page_answers_with_the_worst_cause(browser: Browser) -> None:
    browser.open("/")
    levels = dict(zip(browser.texts(".tile h2"), browser.texts(".tile header"), strict=True))
    assert list(levels) == ["Fresh?", "Good?", "Safe?", "What changed?"]
    assert [text.splitlines()[-1] for text in levels.values()][:3] == ["bad", "not known", "bad"]
    causes = browser.texts(".causes li")
    assert "finetune has ended and is started again; restarts: 3" in causes
    assert any(text.startswith("floods of bad records in the last 24 h: 1") for text in causes)
    assert any(ATTACK.split()[0] in text for text in causes), "what moved"
    assert browser.texts(".changes tbody tr")
    assert all(
        "per hour" in text or "minute" in text or "recall" in text for text in browser.texts(".spark figcaption")
    )


def test_inspectors_tell_the_parts_of_scores_what_rules_took_out_and_who_turned_to_an_item(shop: ConsoleShop) -> None:
    with shop.client("see") as client:
        shopper = client.get("/shopper?id=shopper-000001").text
        assert re.search(r'<span class="pair">transitions <b>[+-]\d+\.\d\d</b>', shopper)
        assert "Taken out by rules" in shopper
        items = re.findall(r'href="/item\?id=([^"]+)"', shopper)
        assert items
        hidden = client.get("/shopper?id=shopper-000001&placement=home").text
        assert hidden.count("<td >hidden</td>") == ("item-00003" in items)
        item = client.get(f"/item?id={items[0]}").text
        assert "<h3>transitions</h3>" in item
        assert "Who turned to it" in item
        assert 'href="/shopper?id=' in item


def test_a_card_tells_what_is_known_of_a_shopper(shop: ConsoleShop, browser: Browser) -> None:
    with httpx.Client(base_url=shop.serve.address) as server:
        leaving = server.get("/v1/retention").json()["shoppers"][0]["shopper"]
        told = server.get(f"/v1/shoppers/{leaving}/profile").json()
        worth = server.get(f"/v1/shoppers/{leaving}/value").json()
        names = server.get(f"/v1/shoppers/{leaving}/segments").json()
    browser.open(f"/shopper?id={leaving}")
    figures = dict(zip(browser.texts(".card .numbers dt"), browser.texts(".card .numbers dd"), strict=True))
    assert figures["class"] == worth["value_class"]
    assert figures["buys within 91 days"] == f"{100 * worth['expected'][-1]['purchase']:.1f} %"
    assert [row.split()[0] for row in browser.texts(".expected tbody tr")] == ["30", "91"]
    assert browser.texts(".tag") == [*names["segments"], f"cluster {names['cluster']}"]
    for kind, bars in zip(("category", "brand", "price"), browser.texts(".barlist"), strict=True):
        assert bars.splitlines()[::2] == [one["value"] for one in told["tastes"][kind][:6]]
    rows = browser.texts("section[aria-label='Profile card'] table.long tbody tr")
    assert len(rows) == sum(one["value"] is not None for one in told["traits"].values())
    assert any(row.startswith("visits ") and " sure " in row for row in rows)


def test_a_card_tells_the_intent_of_a_running_visit(shop: ConsoleShop, browser: Browser) -> None:
    shopper = newest_shopper(shop)
    with httpx.Client(base_url=shop.serve.address) as server:
        intent = server.get(f"/v1/shoppers/{shopper}/intent").json()
    browser.open(f"/shopper?id={shopper}")
    assert f"Ends with a purchase: {100 * intent['probability']:.1f} %." in browser.find(".card").text
    assert len(browser.texts(".share.both")) == min(8, len(intent["reasons"]))


def newest_shopper(shop: ConsoleShop) -> str:
    """Return who did the newest thing."""
    newest = max(
        (msgspec.json.decode(record.value or b"") for record in topic_records(shop.log, EVENTS)),
        key=lambda one: one["time"],
    )
    return str(newest["subject"])


def test_what_nothing_is_known_of_is_said_in_words(shop: ConsoleShop) -> None:
    """Whoever it is: the parts of an answer that are not known must not fail the page, nor may rows that differ."""
    with shop.client("see") as client:
        listed = re.findall(r'href="/shopper\?id=([^"]+)"', client.get("/shoppers").text)
        assert len(listed) == 50
        for shopper in listed:
            assert client.get(f"/shopper?id={shopper}").status_code == 200, shopper
        stranger = client.get("/shopper?id=stranger")
        assert (stranger.status_code, "wanted a shopper" in stranger.text) == (404, True)
        guests = [one for one in listed if "has not bought anything yet" in client.get(f"/shopper?id={one}").text]
        assert guests
        assert "Not known yet:" in client.get(f"/shopper?id={guests[0]}").text
        assert client.get("/pages/nonsense").status_code == 404


def test_retention_links_to_cards_and_sums_what_is_at_risk(shop: ConsoleShop, browser: Browser) -> None:
    with httpx.Client(base_url=shop.serve.address) as server:
        leaving = server.get("/v1/retention?n=1000").json()["shoppers"]
    browser.open("/retention")
    figures = browser.texts(".numbers dd")
    assert figures[0] == str(len(leaving))
    at_risk = sum(one["at_risk"] for one in leaving)
    assert float(figures[1].split()[0].replace(",", "")) == pytest.approx(at_risk, rel=0.01)
    assert browser.texts("tbody td.name") == [one["shopper"] for one in leaving]
    assert browser.texts("tbody tr:first-child .why li") == [
        card.why_leaving(catalogue("en"), one) for one in leaving[0]["reasons"]
    ]
    browser.click("tbody a")
    assert browser.find("h1").text.endswith(leaving[0]["shopper"])


def test_pages_of_families_show_pictures_and_tables(browser: Browser) -> None:
    browser.open("/pages/value")
    assert browser.texts("nav a[aria-current]") == ["Value"]
    assert len(browser.texts("section:first-of-type tbody tr")) == 3
    pictures = browser.run(
        "return [...document.querySelectorAll('.reliability')].map((one) => [one.querySelectorAll('circle').length,"
        " one.querySelectorAll('tbody tr').length])"
    )
    assert len(pictures) == 2
    assert all(dots == rows > 0 for dots, rows in pictures)
    browser.until(lambda: browser.texts(".u-legend"))
    browser.open("/pages/segments")
    assert {"loyal", "again", "c1", "c8"} <= set(browser.texts("td:first-child b"))
    browser.until(lambda: len(browser.texts(".u-legend")) == 2)
    assert browser.texts("section:last-of-type .numbers dd")[0] == "8"


def test_charts_have_a_unit_and_words(browser: Browser) -> None:
    browser.open("/quality")
    browser.until(lambda: browser.texts(".u-legend"))
    charts = browser.run(
        "return [...document.querySelectorAll('[data-chart]')].map((one) => [JSON.parse(one.dataset.chart).along,"
        " one.getAttribute('aria-label'), one.querySelectorAll('canvas').length])"
    )
    assert charts
    for along, words, canvases in charts:
        assert (along, canvases) == ("events learned", 1)
        assert "the newest:" in words


def test_pages_speak_chinese_in_the_viewers_zone(browser: Browser) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Shanghai"})
    try:
        browser.open("/prefer?language=zh&next=/")
        browser.open("/")
        says = catalogue("zh")
        assert browser.texts(".tile h2") == [says(f"question.{one}") for one in QUESTIONS]
        assert browser.find(".updated").text.endswith("CST")
        for path in OPENED:
            browser.open(path)
            assert browser.find("html").get_attribute("lang") == "zh-Hans"
    finally:
        browser.open("/prefer?language=en&next=/")
        browser.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "UTC"})


def test_a_phone_shows_every_page_without_a_scroll_to_the_side(browser: Browser) -> None:
    browser.size(390, 844)
    try:
        for path in OPENED:
            browser.open(path)
            assert browser.run("return document.documentElement.scrollWidth") <= 390, path
    finally:
        browser.size(1360, 900)


def test_keys_reach_the_content_and_the_search(browser: Browser) -> None:
    browser.open("/")
    browser.find("body").send_keys("/")
    assert browser.run("return document.activeElement.id") == "find"
    browser.find("#find").send_keys("no such item\n")
    browser.until(lambda: "/items?words=no+such+item" in browser.driver.current_url)
    assert "No such item is known" in browser.find(".empty").text


command_s_max = 300.0
"""Longest time for a command, which imports all libraries, on a machine that does much else."""


def done(browser: Browser) -> str:
    """Wait for the command of an action; return what it says."""
    browser.until(lambda: "/command?" in browser.driver.current_url)
    browser.until(lambda: "It runs." not in browser.find(".notice").text, command_s_max)
    assert browser.find(".notice").text == "Done.", browser.find("pre").text
    return browser.find("pre").text


def test_a_silence_is_stated_by_clicking(shop: ConsoleShop, browser: Browser) -> None:
    browser.open("/drift")
    browser.run("document.querySelector('[name=until]').value = '2040-01-01T00:00'")
    browser.fill(".form [name=why]", "a sale; --help")
    browser.click(".form button")
    assert "every detector is silent" in done(browser)
    found = [silence_in(record) for record in topic_records(shop.log, SILENCES)]
    assert [(one.why, one.by) for one in found if isinstance(one, Silence)] == [("a sale; --help", "administerr")]
    browser.open("/drift")
    assert "a sale; --help" in browser.find("section[aria-labelledby=silences] table").text
    browser.fill("section[aria-labelledby=silences] form:has([value=end]) [name=why]", "the sale is over")
    browser.click("section[aria-labelledby=silences] form:has([value=end]) button")
    done(browser)
    browser.open("/drift")
    assert not browser.run("return document.querySelector('section[aria-labelledby=silences] form [value=end]')")


def test_rules_are_tried_and_stated_by_clicking(shop: ConsoleShop, browser: Browser) -> None:
    browser.open("/rules")
    browser.fill(".form [name=placement]", "cart")
    browser.fill("#document", '{"hidden": ["item-00001"]}')
    browser.fill(".form [name=why]", "recalled")
    browser.click("button[value=set]")
    assert "cart" in done(browser)
    (stated,) = [one for one in stated_rules(shop.log) if one.placement == "cart"]
    assert stated.rules is not None
    assert (stated.rules.hidden, stated.rules.by, stated.rules.why) == (("item-00001",), "administerr", "recalled")
    browser.open("/rules")
    browser.fill("#document", '{"hidden": ["item-00002"]}')
    browser.click("button[value=try]")
    assert "answers" in done(browser)
    browser.open("/rules")
    cart = "section:has(form [name=placement][value=cart])"
    browser.click(f"{cart} summary")
    browser.fill(f"{cart} form:has([value=clear]) [name=why]", "it is safe after all")
    browser.click(f"{cart} form:has([value=clear]) button")
    done(browser)
    assert all(one.rules is None for one in stated_rules(shop.log) if one.placement == "cart")


def test_experiments_are_created_started_ramped_stopped_and_removed_by_clicking(
    shop: ConsoleShop, browser: Browser
) -> None:
    browser.open("/experiments")
    browser.fill(".form [name=name]", "cart")
    browser.fill("#document", '{"arms": [{"name": "a"}, {"name": "b"}], "placements": ["cart"], "ramp": 0.2}')
    browser.fill(".form [name=why]", "to try")
    browser.click("button[value=create]")
    assert "cart: draft" in done(browser)
    for what, state in (("start", "running"), ("ramp", "running"), ("stop", "stopped"), ("remove", "")):
        browser.open("/experiment?name=cart")
        form = f"details:has([name=do][value={what}])"
        browser.click(f"{form} summary")
        if what == "ramp":
            browser.fill(f"{form} [name=share]", "0.7")
        browser.fill(f"{form} [name=why]", "next")
        browser.click(f"{form} button")
        done(browser)
        stated = stated_experiments(shop.log).stated.get("cart")
        assert (stated.state if stated else "") == state
        assert what != "ramp" or (stated is not None and (stated.ramp, stated.by) == (0.7, "administerr"))


def test_a_report_has_its_verdict_who_was_in_it_and_pictures(shop: ConsoleShop, browser: Browser) -> None:
    browser.open("/experiment?name=front")
    assert browser.find(".lead").text.startswith("conversion is lower in new than in control: -3")
    assert len(browser.texts("section[aria-labelledby=who] tbody tr")) == 2
    assert len(browser.texts("section[aria-labelledby=metrics] tbody tr")) == 4
    assert browser.texts("section[aria-labelledby=segments] tbody tr")
    browser.until(lambda: len(browser.texts(".plot canvas")) >= 4)
    browser.open("/experiment?name=duel")
    browser.until(lambda: len(browser.texts(".plot canvas")) == 1)
    with shop.client("see") as client:
        report = msgspec.json.decode(client.get("/experiment?name=front&as=json").content, type=Report)
    assert report.compared[0].metric == "conversion"


def test_dead_letters_are_filtered_shown_and_redriven_by_clicking(shop: ConsoleShop, browser: Browser) -> None:
    browser.open("/letters?reason=schema")
    assert len(browser.texts("tbody tr")) == 3
    browser.click("tbody tr:last-child a")
    assert "late" in browser.find("pre").text
    browser.click("button[name=dry]")
    assert "would be redriven: 1" in done(browser)
    assert "events/0/900" not in decisions(shop.log)
    browser.open("/letter?id=events/0/900")
    browser.fill("form:has([value=redrive][type=hidden]) [name=why]", "the sender is mended")
    browser.click("form:has([value=redrive][type=hidden]) button:not([name=dry])")
    assert "redriven: 1" in done(browser)
    assert decisions(shop.log)["events/0/900"] == "redriven"
    browser.open("/letter?id=events/0/901")
    browser.fill("form:has([value=drop]) [name=why]", "no event at all")
    browser.click("form:has([value=drop]) button")
    assert "dropped: 1" in done(browser)
    assert decisions(shop.log)["events/0/901"] == "dropped"


def test_models_are_withdrawn_rolled_back_and_promoted_by_clicking(shop: ConsoleShop, browser: Browser) -> None:
    for what in ("withdraw", "roll-back", "promote"):
        browser.open("/models")
        article = f"article:has([value='{what}'])"
        browser.click(f"{article} summary")
        form = f"{article} form:has([value='{what}'])"
        browser.fill(f"{form} [name=why]", f"to try: {what}")
        browser.click(f"{form} button")
        done(browser)
    said = standing(topic_records(shop.log, "models"))
    asked = [(one.action, one.by, one.reason) for one in said.announcements if one.kind == "requested"]
    assert asked == [
        ("withdraw", "administerr", "to try: withdraw"), ("roll_back", "administerr", "to try: roll-back"),
        ("promote", "administerr", "to try: promote"),
    ]  # fmt: skip


@pytest.mark.full  # it runs six commands with all libraries
def test_a_replay_is_begun_compared_and_put_in_place_by_clicking(shop: ConsoleShop, browser: Browser) -> None:
    browser.open("/replays")
    browser.fill(".form [name=name]", "smaller")
    browser.fill("[name=sets]", "next_item.items_max=64")
    browser.click("button[name=dry]")
    assert "nothing was written" in done(browser)
    browser.open("/replays")
    browser.fill(".form [name=name]", "smaller")
    browser.fill("[name=sets]", "next_item.items_max=64")
    browser.fill(".form [name=why]", "is a smaller table enough?")
    browser.click(".form button:not([name])")
    done(browser)
    browser.open("/replay?name=smaller")
    assert "whole range folded" in browser.find(".facts").text
    browser.click("button[value=diff]")
    assert "recall@20" in done(browser)
    browser.open("/replay?name=smaller")
    assert browser.run("return document.querySelector('.picture').naturalWidth") > 500
    browser.fill("form:has([value=promote]) [name=why]", "as good, and smaller")
    browser.click("form:has([value=promote]) button")
    assert "its state is that of online" in done(browser)
    browser.open("/changes?kind=decision")
    assert "as good, and smaller" in browser.find("table").text
    browser.open("/models")
    browser.click("section[aria-labelledby=states] > details summary")
    browser.fill("section[aria-labelledby=states] > details [name=why]", "it was a try")
    browser.click("section[aria-labelledby=states] > details button")
    done(browser)
    browser.open("/replay?name=smaller")
    browser.fill("form:has([value=delete]) [name=why]", "it was a try")
    browser.click("form:has([value=delete]) button")
    done(browser)
    browser.open("/replays")
    assert "smaller" not in browser.find("main").text


def test_each_action_is_in_the_audit_with_who_what_and_why(shop: ConsoleShop, browser: Browser) -> None:
    with shop.client("operate") as client:
        refused = client.post("/act/letters", data={"token": token_of(client), "do": "drop", "ids": "events/0/902"})
        assert (refused.status_code, "why" in refused.text) == (400, True)
        data = {"token": token_of(client), "do": "drop", "ids": "events/0/902", "why": "made by a test"}
        answer = client.post("/act/letters", data=data)
    assert answer.status_code == 303
    assert decisions(shop.log)["events/0/902"] == "dropped"
    lines = [(one.who, one.what, one.of, one.why, one.outcome) for one in audited(shop)]
    assert ("operater", "drop", "events/0/902", "made by a test", "begun") in lines
    assert ("operater", "drop", "events/0/902", "made by a test", "done") in lines
    browser.open("/audit")
    assert "made by a test" in browser.find("table").text


# The adversary


@pytest.mark.parametrize("page", [one for one in PAGES if one.role != "see"], ids=lambda one: one.path)
def test_a_role_reaches_no_more_than_its_pages(shop: ConsoleShop, page: Page) -> None:
    data = {
        "why": "x",
        "do": "promote",
        **dict.fromkeys(("version", "name", "shard", "detector", "placement"), "online"),
    }
    with shop.client() as client:
        answer = client.request(page.method, page.path, data=data if page.method == "POST" else None)
    assert (answer.status_code, answer.headers["location"][:6]) == (303, "/login")
    role: Role = "see" if page.role == "operate" else "operate"
    with shop.client(role) as client:
        data["token"] = token_of(client)
        answer = client.request(page.method, page.path, data=data if page.method == "POST" else None)
    assert (answer.status_code, "needs a person who" in answer.text) == (403, True)
    assert not any(line.who == "seer" and line.outcome == "begun" for line in audited(shop))
    assert any(line.who == f"{role}r" and (line.what, line.of) == ("refused", page.path) for line in audited(shop))


def test_nothing_is_shown_before_a_log_in(shop: ConsoleShop) -> None:
    with shop.client() as client:
        for page in PAGES:
            answer = client.request(page.method, page.path)
            assert (answer.status_code, answer.headers.get("location", "")[:6]) == (303, "/login"), page.path
        assert client.get("/health/live").json() == {"live": True}


def test_a_form_of_another_site_does_nothing(shop: ConsoleShop) -> None:
    with shop.client("operate") as client:
        token = token_of(client)
        form = {"detector": "*", "until": "2041-01-01", "why": "evil"}
        for more, headers in (
            ({}, {}), ({"token": "guess"}, {}), ({"token": token}, {"origin": "https://evil.example"}),
            ({"token": token}, {"origin": "null"}), ({"token": token}, {"sec-fetch-site": "cross-site"}),
            ({"token": token}, {"sec-fetch-site": "same-site"}),
        ):  # fmt: skip
            assert client.post("/act/silence", data=form | more, headers=headers).status_code == 403
        with shop.client("operate") as other:
            assert other.post("/act/silence", data=form | {"token": token}).status_code == 403, "of another session"
        assert client.get("/act/silence", params=form | {"token": token}).status_code == 405
        assert "lax" not in client.get("/").headers.get("set-cookie", "")
    assert all(b"evil" not in (record.value or b"") for record in topic_records(shop.log, SILENCES))


def test_a_session_begins_at_the_log_in_and_ends_at_the_log_out(shop: ConsoleShop) -> None:
    planted = "a" * 43
    with shop.client() as client:
        assert COOKIE not in client.get("/login").cookies
        client.cookies.set(COOKIE, planted)
        assert client.get("/").status_code == 303, "a planted cookie is no session"
        answer = client.post("/login", data={"key": shop.keys["see"]}, headers={"cookie": f"{COOKIE}={planted}"})
        attributes = answer.headers["set-cookie"].lower()
        assert "httponly" in attributes
        assert "samesite=strict" in attributes
        own = answer.cookies[COOKIE]
    assert own != planted
    with httpx.Client(base_url=shop.address, cookies={COOKIE: own}) as client:
        assert client.get("/").status_code == 200
        assert client.post("/logout", data={"token": token_of_page(client)}).status_code == 303
        client.cookies.set(COOKIE, own)
        assert client.get("/").status_code == 303, "the cookie of a session that has ended"
    with httpx.Client(base_url=shop.address, cookies={COOKIE: planted}) as client:
        assert client.get("/").status_code == 303


def token_of_page(client: httpx.Client) -> str:
    found = re.search(r'name="token" value="([^"]+)"', client.get("/").text)
    assert found
    return found[1]


def test_a_person_who_is_removed_is_out_at_once(shop: ConsoleShop) -> None:
    key = add(shop.people, "temp", "operate", now_ms=0)
    time.sleep(0.6)  # the file is looked at twice a second
    with httpx.Client(base_url=shop.address, timeout=30) as client:
        assert client.post("/login", data={"key": key}).status_code == 303
        assert client.get("/").status_code == 200
        remove(shop.people, "temp")
        time.sleep(0.6)
        assert client.get("/").status_code == 303


@pytest.mark.parametrize(
    "path",
    [
        "/static/../pages.py", "/static/..%2fpages.py", "/static/%2e%2e%2f%2e%2e%2fpeople.json", "/static/console.css/",
        "/static/C:%5Cwindows", "//static/console.css", "/%00", "/models/../../etc/passwd", "/replay?name=../../../etc",
        "/replay/picture?name=..%2f..%2f", "/command?number=-1", "/command?number=99999999999999999999", "/letter?id=x",
    ],
)  # fmt: skip
def test_paths_lead_to_nothing_but_pages(shop: ConsoleShop, path: str) -> None:
    with shop.client("see") as client:
        request = client.build_request("GET", shop.address)
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = client.send(request)
    assert answer.status_code in (400, 404), path
    assert "root:" not in answer.text
    assert "def " not in answer.text


def test_every_answer_has_the_headers_and_no_secret(shop: ConsoleShop) -> None:
    with shop.client("administer") as client:
        for path in (*OPENED, "/login", "/static/console.js", "/nothing"):
            answer = client.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            for key in shop.keys.values():
                assert key not in answer.text
            assert client.cookies[COOKIE] not in answer.text
            tags = Tags()
            tags.feed(answer.text if "html" in answer.headers.get("content-type", "") else "")
            assert tags.within == []


def test_only_our_own_names_are_hosts(shop: ConsoleShop) -> None:
    with shop.client() as client:
        answer = client.get("/login", headers={"host": "evil.example"})
        assert answer.status_code == 421
        assert client.get("/login", headers={"host": "localhost:" + shop.address.rpartition(":")[2]}).status_code == 200


@pytest.mark.parametrize("after", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_a_log_in_leads_nowhere_else(shop: ConsoleShop, after: str) -> None:
    with shop.client() as client:
        answer = client.post("/login", data={"key": shop.keys["see"], "next": after})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert client.get("/prefer", params={"next": after, "theme": "dark"}).headers["location"] == "/"


def test_what_a_person_types_is_never_an_option(shop: ConsoleShop) -> None:
    with shop.client("operate") as client:
        for version in ("--help", "--log=$(id); true"):
            data = {"token": token_of(client), "do": "promote", "version": version, "why": "an attack"}
            answer = client.post("/act/model", data=data)
            said = client.get(answer.headers["location"]).text
            assert "Refused" in said, said
            assert "Usage" not in said


def test_a_page_of_many_alarms_is_short(shop: ConsoleShop) -> None:
    alarm = {"detector": "price", "events": 1, "time_ms": 5, "score": 0.3, "threshold": 0.2}
    appender = shop.log.appender()
    for number in range(10_000):
        data = msgspec.json.encode({**alarm, "id": f"price/{number}"})
        appender.append(Outgoing(ALARMS, b"price", data, 0))
    appender.close()
    assert shop.log.end(Partition(ALARMS, 0)) > 10_000
    with shop.client("see") as client:
        time.sleep(2.1)
        for path in ("/", "/drift", "/changes"):
            answer = client.get(path)
            assert len(answer.content) < 200_000, path
        assert "of 10,0" in answer.text
        assert client.get("/drift?page=201").status_code == 200


def test_a_flood_of_log_ins_is_held_back(shop: ConsoleShop) -> None:
    with shop.client() as client:
        answers = [client.post("/login", data={"key": f"hc_{number}"}) for number in range(14)]
        assert [one.status_code for one in answers[:10]] == [401] * 10
        assert (answers[-1].status_code, answers[-1].headers["retry-after"]) == (429, "60")
        assert client.post("/login", data={"key": shop.keys["see"]}).status_code == 429
