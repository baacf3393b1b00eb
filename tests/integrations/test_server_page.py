"""The server's page in a browser: by keyboard, in light and dark, for who cannot see it."""

import re

import pytest

import unmask
from tests.browser import browser, violations  # noqa: F401
from tests.integrations.serving import THRESHOLD, serving

PROMPT = "hall: red blue gold green?"


@pytest.fixture
def open_page(browser, served):  # noqa: F811
    """Opens the page; it asks for nothing but its server, and complains of nothing."""
    asked, told = [], []

    def open_page(address=served[0], **settings):
        page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings}).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    assert [url for url in asked if not url.startswith(("http://127.0.0.1", "data:"))] == []
    assert [text for text in told if "401" not in text and "400" not in text] == []


def decoded(page):
    page.locator("#summary", has_text="forward passes").wait_for()
    return page.locator("#summary").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_prompt_is_decoded_by_keyboard_alone(house, open_page, scheme):
    # Before the server decodes: a dLLM is for one thread at a time.
    wanted = unmask.generate(house, unmask.load_policy("house-base-full"), [PROMPT], speed=1.0)[0]
    page = open_page(color_scheme=scheme)
    page.locator("#expected", has_text="forward passes").wait_for()
    assert violations(page) == []
    page.keyboard.press("Tab")
    page.keyboard.type(PROMPT)
    for _ in range(3):  # policy, tokens, speed
        page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert page.locator("#expected").text_content().startswith("1.00, about 3.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    told = decoded(page)
    assert wanted.text in told
    assert f"in {wanted.nfe} forward passes" in told
    assert violations(page) == []
    assert page.locator("#count").text_content() == f"{wanted.nfe} of {wanted.nfe}"
    page.locator("#step").focus()
    page.keyboard.press("Home")
    assert page.locator("#tokens .masked").count() == 32
    page.keyboard.press("ArrowRight")
    assert page.locator("#tokens .new").count() == sum(at == 0 for at in wanted.revealed_at)
    page.keyboard.press("End")
    assert wanted.text in re.sub("[◇·]", "", page.locator("#tokens").text_content())


def test_a_rule_has_no_speed_and_faults_are_told(open_page):
    page = open_page()
    page.locator("#policy").select_option(THRESHOLD)
    assert page.locator("#speed-choice").is_hidden()
    page.locator("#prompt").fill("a zebra")
    page.locator("#go").click()
    page.locator("#problem", has_text="does not know: use the words").wait_for()
    page.locator("#prompt").fill(PROMPT)
    page.locator("#go").click()
    assert "go red" in decoded(page)
    assert page.locator("#problem").text_content() == ""


def test_it_fits_a_phone_and_asks_for_the_key(browser, house, open_page):  # noqa: F811
    with serving(house, [THRESHOLD], guard={"key": "s3cret"}) as (address, _):
        page = open_page(address, viewport={"width": 390, "height": 800}, has_touch=True)
        page.locator("#key-choice").wait_for()
        page.locator("#prompt").fill(PROMPT)
        page.locator("#go").click()
        page.locator("#problem", has_text="Wrong or missing API key").wait_for()
        page.locator("#key").fill("s3cret")
        page.locator("#key").press("Tab")
        page.locator("#about", has_text="house-base").wait_for()
        page.locator("#go").click()
        assert "go red" in decoded(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert violations(page) == []
