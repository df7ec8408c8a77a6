"""The status page in a real Chromium: what people see, hear, and reach by keyboard."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
import pytest

from provcache_trio import EntryRejectedError

from tests.support.browser import Program, run_browser, run_program
from tests.support.shown import CACHE, LOOK, STALE, UNLIMITED, Shown
from tests.support.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

LOOKS: list[tuple[Literal["light", "dark"], int]] = [
    (scheme, width) for scheme in ("light", "dark") for width in (360, 1280)
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_browser() as running:
        yield running


class Visit(NamedTuple):
    """A page that is open, and what it did behind the scenes.

    Attributes:
        errors: what it wrote to the console, and what it threw.
        requests: where it went.
    """

    page: Page
    errors: list[str]
    requests: list[str]

    def text_of(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def until(self, condition: str) -> None:
        """Wait until an expression of JavaScript is true."""
        # Not with the page's own timers: there, its policy refuses to evaluate a text.
        deadline = time.monotonic() + HANG_SECONDS
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, (condition, self.page.title())
            self.page.wait_for_timeout(50)


@contextmanager
def visit(
    browser: Browser, url: str, scheme: Literal["light", "dark"] = "light", width: int = 1280
) -> Iterator[Visit]:
    """Visit ``url``, and demand at the end that nothing went wrong or elsewhere."""
    with browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 800}, locale="en-GB"
    ) as context:
        seen = Visit(context.new_page(), [], [])
        page = seen.page
        page.on("console", lambda message: seen.errors.append(message.text))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.goto(url)
        page.locator("h2").first.wait_for()
        yield seen
        assert seen.errors == []
        assert {url, f"{url}status.json"} >= {
            request for request in seen.requests if not request.startswith("data:")
        }


# What it says


def test_a_healthy_queue_is_told_in_words_numbers_and_charts(browser: Browser) -> None:
    with run_program("scans") as program, visit(browser, program.server.url) as seen:
        page = seen.page
        seen.until("document.querySelector('.plot .first').getAttribute('d')?.includes('L')")
        assert page.title() == "Running: scans"
        tree = page.locator("body").aria_snapshot()
        for line in (
            '- banner:\n  - heading "Write-behind queues" [level=1]',
            "- main:",
            '- region "scans":',
            'heading "scans" [level=2]',
            "paragraph: Running",
            "paragraph: Ready for work",
            'heading "Entries per second" [level=3]',
            'heading "Entries waiting" [level=3]',
            'heading "Entries per batch" [level=3]',
            'heading "Age of the oldest" [level=3]',
            'navigation "For programs":',
            "- contentinfo:",
            "- status",
        ):
            assert line in tree, tree
        assert seen.text_of("#overall") == "The queue is ready"
        assert re.fullmatch(
            r"Entries are accepted and written; .*", seen.text_of("[data-slot=summary]")
        )
        assert seen.text_of("[data-slot=error]") == "Last error: none"
        assert page.locator("[data-slot=next]").is_hidden()
        number = r"[\d,.]+"
        assert re.fullmatch(
            rf"In {number}\s+Out {number}", seen.text_of(".chart:nth-child(1) .now-values")
        )
        assert re.fullmatch(
            rf"Range: in {number} to {number}, out {number} to {number}",
            seen.text_of(".chart:nth-child(1) .range"),
        )
        assert re.fullmatch(
            rf"Range: {number} m?s to {number} m?s", seen.text_of(".chart:nth-child(4) .range")
        )
        totals = seen.text_of("[data-slot=totals]")
        assert re.search(r"Dead letters\s+0\s", totals)


def test_the_charts_move(browser: Browser) -> None:
    with run_program("scans") as program, visit(browser, program.server.url) as seen:
        seen.until("document.querySelector('.plot .first').getAttribute('d')?.includes('L')")
        lines = "[...document.querySelectorAll('.plot path')].map(one => one.getAttribute('d'))"
        before = seen.page.evaluate(lines)
        assert len(before) == 4 * 2 + 2
        assert all(before[index] for index in (0, 1, 2))
        seen.page.wait_for_timeout(2500)
        after = seen.page.evaluate(lines)
        # The areas and lines of the rates, of what waits, of batches, and of the age.
        assert all(old != new for old, new in zip(before, after, strict=True))
        points = "document.querySelector('.plot .first').getAttribute('d').split('L')"
        last = seen.page.evaluate(f"{points}.at(-1)")
        assert last.split(",")[0] == "300.0"  # now is at the right
        first = seen.page.evaluate(f"{points}.at(0)")
        assert float(first.split(",")[0].removeprefix("M")) < 297


def test_a_store_that_is_away_is_told_with_its_error_and_the_next_try(browser: Browser) -> None:
    with run_program("scans") as program, visit(browser, program.server.url) as seen:
        page = seen.page
        assert seen.text_of("#announcer") == ""
        store = program.stores["scans"]
        program.do(store.down)
        seen.until("document.title == 'Waiting for the store: scans'")
        assert seen.text_of(".state") == "Waiting for the store"
        assert page.locator(".state svg").is_visible()
        assert seen.text_of(".queue .ready") == "Not ready for work"
        assert seen.text_of("#overall") == "The queue is not ready"
        assert re.fullmatch(
            r"The store can't be reached, or needs a person; [\d,]+ entries wait for it, "
            r"and it is tried again without end\.",
            seen.text_of("[data-slot=summary]"),
        )
        assert re.fullmatch(
            r"StoreUnavailableError, at \d\d:\d\d:\d\d", seen.text_of("[data-slot=error-text]")
        )
        seen.until(
            "/^in \\d+ s$/.test(document.querySelector('[data-slot=next-text]').textContent)"
        )
        announced = seen.text_of("#announcer")
        assert announced.startswith("scans: Waiting for the store. The store can't be reached")
        page.wait_for_timeout(1500)
        assert seen.text_of("#announcer") == announced  # a change is told once, not every second
        program.do(store.up)
        seen.until("document.title == 'Running: scans'")
        assert seen.text_of("#announcer").startswith("scans: Running. Entries are accepted")
        assert "StoreUnavailableError" in seen.text_of("[data-slot=error-text]")  # it stays


def test_the_next_try_is_counted_down_between_answers(browser: Browser) -> None:
    with run_program("scans") as program, visit(browser, program.server.url) as seen:
        program.do(program.stores["scans"].down)
        text = "document.querySelector('[data-slot=next-text]').textContent"
        seen.until(f"/^in [3-9] s$/.test({text})")
        seen.page.route("**/status.json", lambda _: None)  # never answered
        before = int(seen.page.evaluate(text).split()[1])
        seen.until(f"{text} == 'in {before - 2} s' || {text} == 'now'")
        seen.page.unroute_all(behavior="ignoreErrors")


def test_a_drain_is_told_while_it_lasts_and_so_is_its_end(browser: Browser) -> None:
    with run_program("scans") as program, visit(browser, program.server.url) as seen:
        program.stall("scans")
        program.leave()
        seen.until("document.title == 'Draining: scans'")
        assert seen.text_of(".state") == "Draining"
        assert re.fullmatch(
            r"No more entries are accepted; [\d,]+ entries are left to write\.",
            seen.text_of("[data-slot=summary]"),
        )
        assert seen.text_of("#announcer").startswith("scans: Draining.")
        program.do(program.stores["scans"].resume)
        seen.until("document.title == 'Closed: scans'")
        assert seen.text_of("[data-slot=summary]") == (
            "The queue has ended, and nothing was left behind."
        )


def test_dead_letters_are_told(browser: Browser) -> None:
    with run_program("scans") as program, visit(browser, program.server.url) as seen:
        queue = program.queues["scans"]
        program.do(lambda: program.server.app.remove(queue))
        seen.until("document.title == 'No queue is open'")
        assert seen.text_of("main") == "No queue is open."
        program.do(lambda: program.server.app.add(queue, dead_letters=lambda: 12))
        program.do(lambda: program.stores["scans"].fail_next(EntryRejectedError("bad"), 30))
        letters = (
            "[...document.querySelectorAll('dt')].find(dt => dt.textContent == 'Dead letters')"
        )
        seen.until(f"/^[1-9]\\d* \\(12 kept\\)$/.test({letters}?.nextSibling.textContent)")
        assert seen.page.evaluate(f"{letters}.parentElement.className") == "alarming"


def values_in(seen: Visit, queue: int, part: str) -> dict[str, str]:
    """Return the numbers of a queue's cache or stream, by their labels."""
    rows = seen.page.locator(f".queue:nth-child({queue}) [data-slot={part}-totals] > div")
    return dict(row.inner_text().split("\n") for row in rows.all())


def show(program: Program, *queues: Shown) -> None:
    for queue in queues:
        program.do(partial(program.server.app.add, queue))


def test_a_cache_is_shown_with_its_queue(browser: Browser) -> None:
    with run_program("plain") as program, visit(browser, program.server.url) as seen:
        metrics = program.queues["plain"].metrics()
        shown = Shown(metrics, "cached", cache=CACHE)
        show(program, shown)
        seen.until("document.querySelectorAll('h2').length == 2")
        hidden = seen.page.locator(".part").evaluate_all("all => all.map(one => one.hidden)")
        assert hidden == [True, True, False, True]  # a plain queue has neither
        assert values_in(seen, 2, "cache") == {
            "Found in memory": "101",
            "Found pending": "11",
            "Found in the store": "31",
            "Not found": "7",
            "Computed": "5",
            "Shared waits": "3",
            "Failed": "2",
            "Remembered": "97",
        }
        text = ".queue:nth-child(2) [data-slot=cache-text]"
        assert seen.text_of(text) == "nobody has asked in the last seconds"
        shown.cache = msgspec.structs.replace(CACHE, hits_memory=191, misses=17, errors=3)
        seen.until(f"document.querySelector({text!r}).innerText.startsWith('90 % found, of 100 ')")
        assert seen.page.locator(".part .alarming dt").all_inner_texts() == ["Failed"]


def test_a_stream_is_shown_as_far_as_it_is_known(browser: Browser) -> None:
    with run_program("plain") as program, visit(browser, program.server.url) as seen:
        metrics = program.queues["plain"].metrics()
        show(
            program,
            Shown(metrics, "full", stream="decisions", look=LOOK),
            Shown(metrics, "stale", stream="decisions", look=STALE),
            Shown(metrics, "unlimited", stream="decisions", look=UNLIMITED),
            Shown(metrics, "unknown", stream="<b>s</b>"),
        )
        seen.until("document.querySelectorAll('h2').length == 5")
        numbers = {
            "Messages": "1,200",
            "Size": "900 kB",
            "Limit": "1 MB",
            "Full": "90 %",
            "Oldest message": "1 min 1 s",
            "Held by relays": "128",
            "Redelivered": "4",
            "Seen": "3.5 s ago",
        }
        assert values_in(seen, 2, "stream") == numbers
        assert values_in(seen, 3, "stream") == numbers | {"Seen": "6 min 40 s ago"}
        assert values_in(seen, 4, "stream") == numbers | {"Limit": "none", "Full": "\u2013"}
        assert [
            part.inner_text() for part in seen.page.locator("[data-slot=stream-text]").all()
        ] == [
            "",
            "Messages wait for a relay, or are on their way to the store.",
            "Not seen for 6 min 40 s; this is how it was then.",
            "Messages wait for a relay, or are on their way to the store.",
            "What it holds is not known: no look at it has succeeded yet.",
        ]
        assert seen.text_of(".queue:nth-child(5) [data-slot=stream-name]") == "<b>s</b>"
        assert seen.page.locator(".queue:nth-child(5) [data-slot=stream-totals]").is_hidden()
        alarming = seen.page.locator(".queue:nth-child(2) .part .alarming dt").all_inner_texts()
        assert alarming == ["Full", "Redelivered"]
        for scheme, width in LOOKS:
            seen.page.emulate_media(color_scheme=scheme)
            seen.page.set_viewport_size({"width": width, "height": 800})
            assert overflow(seen.page) == 0, width
            contrasts = seen.page.evaluate(CONTRASTS)
            assert [one for one in contrasts if one[2] < one[1]] == []


def test_an_answer_that_does_not_come_is_told_and_so_is_the_next(browser: Browser) -> None:
    with run_program("scans") as program, visit(browser, program.server.url) as seen:
        page = seen.page
        assert page.locator("#stale").is_hidden()
        page.route("**/status.json", lambda route: route.fulfill(body="<html>"))
        page.locator("#stale").wait_for()
        assert re.fullmatch(
            r"Stale: no answer for \d+ s\. What you see is how it was before\.",
            seen.text_of("#stale"),
        )
        assert page.title() == "No answer: scans"
        assert seen.text_of("#overall") == "The program does not answer"
        assert seen.text_of("#announcer").startswith("There is no answer any more")
        page.unroute_all(behavior="wait")
        page.locator("#stale").wait_for(state="hidden")
        assert page.title() == "Running: scans"
        assert "There is an answer again." in seen.text_of("#announcer")


def test_many_queues_are_on_one_page_and_reached_by_links(browser: Browser) -> None:
    names = ("scans", "gate", "policy")
    with run_program(*names) as program, visit(browser, program.server.url) as seen:
        page = seen.page
        assert page.title() == "Running: 3 queues"
        assert seen.text_of("#overall") == "All 3 queues are ready"
        assert page.locator("h2").all_inner_texts() == list(names)
        program.do(program.stores["gate"].down)
        seen.until("document.title == 'Waiting for the store: gate'")
        assert seen.text_of("#overall") == "2 of 3 queues are ready"
        links = page.get_by_role("navigation", name="Queues").get_by_role("link")
        assert [" ".join(text.split()) for text in links.all_inner_texts()] == [
            "scans Running",
            "gate Waiting for the store",
            "policy Running",
        ]
        links.nth(2).click()
        assert page.evaluate("location.hash") == "#queue-3"
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
        assert len(ids) == len(set(ids))


def test_names_are_shown_and_never_run(browser: Browser) -> None:
    name = "<img src=x onerror=alert(1)>\u202egnp" + 60 * "x"
    with run_program(name) as program, visit(browser, program.server.url, width=360) as seen:
        assert seen.page.locator("h2").text_content() == name
        assert seen.page.title() == f"Running: {name}"
        assert seen.page.locator("img").count() == 0
        assert overflow(seen.page) == 0


def test_it_works_wherever_it_is_mounted(browser: Browser) -> None:
    with run_program("scans") as program:
        root = program.server.url
        with browser.new_context() as context:
            asked: list[str] = []

            # As a server would that has it mounted there, and does not redirect to the slash.
            def pass_on(route: object) -> None:
                url: str = route.request.url  # type: ignore[attr-defined]
                asked.append(url.removeprefix(root))
                route.continue_(url=root + url.removeprefix(f"{root}internal/queue").lstrip("/"))  # type: ignore[attr-defined]

            for path in ("internal/queue", "internal/queue/"):
                page = context.new_page()
                page.route("**/internal/**", pass_on)
                page.goto(root + path)
                page.locator("h2").wait_for()
                assert asked[:2] == [path, "internal/queue/status.json"]
                links = page.locator("footer a").evaluate_all("all => all.map(one => one.href)")
                assert links == [
                    f"{root}internal/queue/{name}"
                    for name in ("status.json", "metrics", "readyz", "livez")
                ]
                page.close()  # else it asks again, before the next one does
                asked.clear()


def test_the_policy_lets_nothing_else_run_or_be_loaded(browser: Browser) -> None:
    with run_program("scans") as program, browser.new_context() as context:
        page = context.new_page()
        page.goto(program.server.url)
        page.locator("h2").wait_for()
        page.evaluate(
            """() => {
                window.refused = [];
                document.addEventListener("securitypolicyviolation",
                    event => refused.push(event.effectiveDirective));
                document.body.insertAdjacentHTML("beforeend",
                    "<b style='color:red' onclick='window.ran = 1'>x</b>"
                    + "<img src='//example.invalid/x.png'>");
                const script = document.createElement("script");
                script.textContent = "window.ran = 1";
                document.body.append(script);
                document.body.lastElementChild.previousElementSibling.click();
            }"""
        )
        Visit(page, [], []).until("window.refused.length >= 4")
        assert page.evaluate("window.ran") is None
        assert set(page.evaluate("window.refused")) == {
            "style-src-attr",
            "script-src-attr",
            "script-src-elem",
            "img-src",
        }


# How it looks


def overflow(page: Page) -> int:
    """Return by how many pixels the page, or anything on it, is wider than the window."""
    width: int = page.evaluate(
        """Math.max(document.documentElement.scrollWidth,
            ...[...document.querySelectorAll("body *:not(.unseen)")]
                .map(one => Math.ceil(one.getBoundingClientRect().right)))
            - document.documentElement.clientWidth"""
    )
    return max(0, width)


# The contrast of each text with what is behind it, and of what is drawn, as WCAG computes it.
CONTRASTS = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const over = (...colours) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const colour of colours) {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
        }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const luminance = (rgb) => {
        const [r, g, b] = rgb.map((one) => one / 255)
            .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (one, other) => {
        const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const behind = (element) => {
        const all = [];
        for (let one = element; one; one = one.parentElement) {
            all.unshift(getComputedStyle(one).backgroundColor);
        }
        return all;
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        if (!element.checkVisibility() || element.closest(".unseen, template, script")) continue;
        const style = getComputedStyle(element);
        const under = behind(element);
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (own) found.push([element.outerHTML.slice(0, 80), 4.5, contrast(over(...under, style.color), over(...under))]);
        if (element.matches(".first, .second")) {
            const colour = element.matches("path") ? style.stroke : style.borderTopColor;
            found.push([element.outerHTML.slice(0, 80), 3, contrast(over(...under, colour), over(...under))]);
        }
        if (element.matches(".icon")) {
            found.push([element.outerHTML.slice(0, 80), 3, contrast(over(...under, style.fill), over(...under))]);
        }
        if (element.matches("button")) {
            found.push([element.outerHTML.slice(0, 80), 3, contrast(over(...under.slice(0, -1), style.borderTopColor), over(...under.slice(0, -1)))]);
        }
    }
    return found;
}"""


def outage(program: Program) -> str:
    program.do(program.stores["gate"].down)
    return "Waiting for the store: gate"


def drain(program: Program) -> str:
    for name in program.stores:
        program.stall(name)
    program.leave()
    return "Draining: gate"  # what is left first drains first


def end(program: Program) -> str:
    program.leave()
    return "Closed: 2 queues"


def health(program: Program) -> str:
    return "Running: 2 queues"


@pytest.mark.parametrize("act", [health, outage, drain, end], ids=lambda act: act.__name__)
def test_it_fits_and_can_be_read_in_both_schemes_on_a_phone_and_a_desktop(
    browser: Browser, act: Callable[[Program], str]
) -> None:
    with run_program("scans", "gate") as program, visit(browser, program.server.url) as seen:
        page = seen.page
        title = act(program)
        seen.until(f"document.title == {title!r}")
        grounds: set[str] = set()
        for scheme, width in LOOKS:
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 800})
            assert overflow(page) == 0, width
            contrasts = page.evaluate(CONTRASTS)
            assert len(contrasts) > 80
            assert [one for one in contrasts if one[2] < one[1]] == []
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2


def test_it_can_be_read_at_twice_the_size_of_text(browser: Browser) -> None:
    with run_program("scans") as program, visit(browser, program.server.url, width=360) as seen:
        # A rule of ours: the page's policy refuses one that is put into the page.
        seen.page.context.new_cdp_session(seen.page).send(
            "Emulation.setDeviceMetricsOverride",
            {"width": 320, "height": 600, "deviceScaleFactor": 2, "mobile": True},
        )
        seen.page.evaluate("document.documentElement.style.fontSize = '200%'")
        assert overflow(seen.page) == 0


# By keyboard, and calmly


def test_everything_is_reached_by_keyboard_and_the_focus_is_seen(browser: Browser) -> None:
    with run_program("scans", "gate") as program, visit(browser, program.server.url) as seen:
        page = seen.page
        reached: list[str] = []
        for _ in range(7):
            page.keyboard.press("Tab")
            reached.append(" ".join(page.evaluate("document.activeElement.innerText").split()))
            outline = page.evaluate(
                "(({outlineStyle, outlineWidth}) => [outlineStyle, outlineWidth])"
                "(getComputedStyle(document.activeElement))"
            )
            assert outline == ["solid", "3px"]
            page.wait_for_timeout(300)
        assert reached == [
            "Stop updates",
            "scans Running",
            "gate Running",
            "status.json",
            "metrics",
            "readyz",
            "livez",
        ]
        # What an update replaces must not be what has the focus.
        page.wait_for_timeout(1500)
        assert page.evaluate("document.activeElement.innerText") == "livez"


def test_updates_can_be_stopped_by_keyboard_and_resumed(browser: Browser) -> None:
    with run_program("scans") as program, visit(browser, program.server.url) as seen:
        page = seen.page
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        button = page.get_by_role("button")
        assert button.inner_text() == "Resume updates"
        page.wait_for_timeout(500)
        asked, shown = len(seen.requests), seen.text_of("main")
        page.wait_for_timeout(4500)
        assert (len(seen.requests), seen.text_of("main")) == (asked, shown)
        assert page.locator("#stale").is_hidden()
        page.keyboard.press("Space")
        assert button.inner_text() == "Stop updates"
        seen.until(f"document.querySelector('main').innerText != {shown!r}")


def test_who_wants_less_motion_gets_charts_that_move_every_five_seconds(browser: Browser) -> None:
    with run_program("scans") as program, visit(browser, program.server.url) as seen:
        seen.page.emulate_media(reduced_motion="reduce")
        seen.page.evaluate(
            """() => {
                window.moves = 0;
                new MutationObserver(() => { window.moves += 1; })
                    .observe(document.querySelector(".plot .first"), { attributes: true });
            }"""
        )
        seen.page.wait_for_timeout(6500)
        assert seen.page.evaluate("window.moves") in {1, 2}
        animated = seen.page.evaluate("document.getAnimations().length")
        assert animated == 0
