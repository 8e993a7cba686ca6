import itertools

import msgspec
import pytest
from sample_report import sample_report, small_report

from edgeresnext.measure.results import ChangedImage, ClassAccuracy, LayerTime
from edgeresnext.report.html import to_html

EVIL = "<script>window.stolen = 1</script><img src='x' onerror='window.stolen = 1'>\"' $x^2$ &amp;"


@pytest.fixture(scope="module")
def report():
    return sample_report()


@pytest.fixture(scope="module")
def html(report):
    return to_html(report)


@pytest.fixture(scope="module")
def interrupted():
    """The page of a quick report that was interrupted."""
    return to_html(small_report(mode="quick", partial=True))


def contrast(one, other):
    """WCAG 2.2, "contrast ratio"."""

    def luminance(colour):
        parts = [part / 255 for part in colour]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def column(browser, table, heading):
    """The texts of a column, from top to bottom."""
    return browser.run(
        """const table = document.querySelectorAll("table.sortable")[arguments[0]];
        const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === arguments[1]);
        return [...table.tBodies[0].rows].map((row) => row.cells[at].textContent);""",
        table,
        heading,
    )


def press(browser, table, heading):
    return browser.run(
        """const table = document.querySelectorAll("table.sortable")[arguments[0]];
        const cell = [...table.tHead.rows[0].cells].find((cell) => cell.textContent === arguments[1]);
        cell.querySelector("button").click();
        return [...table.tHead.rows[0].cells].map((cell) => cell.getAttribute("aria-sort")).filter(Boolean);""",
        table,
        heading,
    )


def test_the_page_loads_without_errors_or_requests(browser, html):
    address = browser.open(html)
    assert browser.run("return document.querySelectorAll('svg').length") == 7
    assert browser.console() == []
    requests = browser.requests()
    assert requests[0] == address
    assert all(url.startswith("data:image/jpeg;base64,") for url in requests[1:])
    assert browser.run("return [...document.images].every((image) => image.naturalWidth === 96)")


def test_the_policy_of_the_page_stops_what_it_does_not_bring_along(browser, html):
    browser.open(html.replace("</main>", "<img src='http://192.0.2.1/x.png'><script>window.stolen = 1</script></main>"))
    assert browser.run("return window.stolen") is None
    assert sum("Content Security Policy" in message for message in browser.console()) == 2


def test_the_plot_has_one_mark_a_measured_variant(browser, report, html):
    browser.open(html)
    marks = browser.run("return [...document.querySelectorAll('svg .mark')].map((mark) => mark.id)")
    measured = [row.name for row in report.rows if row.scenario == "single-stream" and row.status == "ok"]
    assert sorted(marks) == sorted(f"pareto-mark-{name}" for name in measured)
    tooltip = browser.run(
        "return document.getElementById('pareto-mark-openvino-int8').querySelector('title').textContent"
    )
    assert tooltip.startswith("openvino-int8: top-1 77.30 %, p90 latency 12.9")


def test_the_marks_lie_where_the_figures_say(browser, report, html):
    browser.open(html)
    at = browser.run(
        """return Object.fromEntries([...document.querySelectorAll("svg .mark use")].map((mark) => {
          const box = mark.getBoundingClientRect();
          return [mark.closest(".mark").id.replace("pareto-mark-", ""), [box.x + box.width / 2, box.y + box.height / 2]];
        }));"""
    )
    rows = [row for row in report.rows if row.scenario == "single-stream" and row.status == "ok"]
    assert sorted(at, key=lambda name: at[name][0]) == [
        row.name for row in sorted(rows, key=lambda row: row.latency_s.p90)
    ]
    assert at["onnxruntime-int8"][1] == max(y for _, y in at.values())


@pytest.mark.parametrize("width", [375, 1280])
def test_no_text_of_a_plot_is_cut(browser, html, width):
    browser.resize(width)
    browser.open(html)
    outside = browser.run(
        """const outside = [];
        for (const svg of document.querySelectorAll("svg")) {
          const room = svg.getBoundingClientRect();
          for (const text of svg.querySelectorAll("text")) {
            const box = text.getBoundingClientRect();
            if (box.left < room.left - 1 || box.right > room.right + 1 || box.top < room.top - 1 || box.bottom > room.bottom + 1)
              outside.push(text.textContent);
          }
        }
        return outside;"""
    )
    assert outside == []


def test_every_mark_is_named_by_a_legend_with_its_colour(browser, html):
    browser.open(html)
    marks = browser.run(
        """return Object.fromEntries([...document.querySelectorAll("svg .mark")].map((mark) =>
          [mark.id.replace("pareto-mark-", ""), getComputedStyle(mark.querySelector("use")).fill]));"""
    )
    key = browser.run(
        """return Object.fromEntries([...document.querySelectorAll(".key li")].map((entry) =>
          [entry.querySelector("b").textContent, getComputedStyle(entry.querySelector("span")).color]));"""
    )
    assert len(marks) == 6
    assert key == marks


def test_ids_are_unique_and_every_reference_resolves(browser, html):
    browser.open(html)
    assert browser.run(
        """const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
        const known = new Set(ids);
        const broken = [...document.querySelectorAll("svg [clip-path], svg use")].map((element) =>
          (element.getAttribute("href") || element.getAttribute("clip-path")).replace(/url\\(|\\)|#/g, "")).filter((id) => !known.has(id));
        return [ids.length - known.size, broken, known.size > 500];"""
    ) == [0, [], True]


def test_a_table_is_sorted_both_ways_by_number_with_missing_figures_last(browser, html):
    browser.open(html)
    before = column(browser, 0, "variant")
    assert before[2] == "torch-fp32-compile (skipped)"
    assert press(browser, 0, "p50 ms") == ["ascending"]
    rising = column(browser, 0, "p50 ms")
    assert rising[-1] == "n/a"
    numbers = [float(text) for text in rising[:-1]]
    assert numbers == sorted(numbers)
    assert max(numbers) > 9 * min(numbers) / 2
    assert press(browser, 0, "p50 ms") == ["descending"]
    assert column(browser, 0, "p50 ms") == [*rising[-2::-1], "n/a"]
    assert column(browser, 0, "variant")[-1] == before[2]
    assert press(browser, 0, "variant") == ["ascending"]
    assert column(browser, 0, "variant") == sorted(before)
    assert column(browser, 1, "variant")[0] == "torch-fp32"  # the other tables stay as they are


def test_text_as_wide_as_9_and_10_is_sorted_by_its_value(browser, html):
    browser.open(html)
    press(browser, 1, "p50 ms")
    found = [float(text.replace(",", "")) for text in column(browser, 1, "p50 ms")]
    assert found == sorted(found)
    assert found != sorted(found, key=str)


def test_a_heading_is_pressed_by_keyboard(browser, html):
    browser.open(html)
    browser.run("document.querySelector('th button').focus()")
    browser.driver.switch_to.active_element.send_keys("\ue007")
    assert browser.run("return document.querySelector('th').getAttribute('aria-sort')") == "ascending"


@pytest.mark.parametrize("page", ["html", "interrupted"])
def test_the_page_does_not_scroll_sideways_on_a_phone(browser, page, request):
    browser.resize(375)
    browser.open(request.getfixturevalue(page))
    assert browser.run("return document.scrollingElement.scrollWidth") == 375
    table = browser.run("return document.querySelector('.scroll:has(> table)').scrollWidth")
    assert table > 375  # what does not fit scrolls in its own box
    sizes = browser.run(
        """return [...document.querySelectorAll(".plot:not(.wide) svg")].map((svg) => {
          const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
          return Math.min(...[...svg.querySelectorAll("text")].map((text) => scale * parseFloat(getComputedStyle(text).fontSize)));
        });"""
    )
    assert min(sizes) > 8.5


def test_light_and_dark_follow_the_system_and_can_both_be_read(browser, html):
    browser.open(html)
    found = {}
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        page = browser.colour("html", "backgroundColor")
        text = browser.colour(".summary", "color")
        axis = browser.colour("svg text", "fill")
        found[scheme] = page
        assert contrast(page, text) > 7
        assert contrast(browser.colour(".plot", "backgroundColor"), axis) > 4.5
        assert contrast(browser.colour(".warnings", "backgroundColor"), browser.colour(".warnings", "color")) > 4.5
        assert contrast(page, browser.colour(".note", "color")) > 4.5
    assert sum(found["light"]) > 700
    assert sum(found["dark"]) < 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_a_variant_is_readable_and_none_is_used_twice(browser, html, scheme):
    browser.prefer(scheme)
    browser.open(html)
    browser.run("document.querySelector('main').insertAdjacentHTML('beforeend', '<p id=probe></p>')")
    colours = []
    for index in range(8):
        browser.run(f"document.getElementById('probe').style.color = 'var(--series-{index})'")
        colours.append(tuple(browser.colour("#probe", "color")))
    assert len(set(colours)) == 8
    assert min(contrast(browser.colour(".plot", "backgroundColor"), colour) for colour in colours) > 4.5


def test_the_button_changes_the_scheme(browser, html):
    browser.open(html)
    light = browser.colour("html", "backgroundColor")
    browser.run("document.getElementById('theme').click()")
    assert browser.colour("html", "backgroundColor") != light
    browser.run("document.getElementById('theme').click()")
    assert browser.colour("html", "backgroundColor") == light


def test_a_report_s_text_is_never_markup(browser, report):
    rows = [msgspec.structs.replace(row, detail=EVIL, reasons=(EVIL,)) for row in report.rows]
    rows[4] = msgspec.structs.replace(
        rows[4],
        target=EVIL,
        layers=(LayerTime(module=EVIL, kind="", seconds=1e-3), LayerTime(module="", kind=EVIL, seconds=1e-3)),
    )
    changed = ChangedImage(file=f"{EVIL}\udcff.jpg", variant=EVIL, label=EVIL, before=EVIL, before_probability=0.5, after=EVIL, after_probability=0.2, change=0.3, thumbnail=b'"><script>window.stolen = 1</script>')  # fmt: skip
    evil = msgspec.structs.replace(
        report, rows=tuple(rows), bundle={EVIL: EVIL, "model": EVIL}, environment={EVIL: EVIL, "cpu": EVIL}, command=EVIL,
        baseline=EVIL, data=EVIL, warnings=(EVIL, "\x00\x1b[2J"), images_sha256=EVIL, changed=(changed,),
        classes=(ClassAccuracy(label=EVIL, images=1, top1={EVIL: 1.0, "torch-fp32": 1.0}),),
    )  # fmt: skip
    browser.open(to_html(evil))
    assert browser.run("return window.stolen") is None
    assert browser.run("return [document.scripts.length, document.images.length]") == [1, 1]
    assert browser.run("return document.querySelectorAll('[onerror]').length") == 0
    assert browser.run("return document.querySelector('h1').textContent") == EVIL
    assert browser.run("return document.querySelector('pre').textContent") == EVIL
    for selector in ("svg .mark title", ".key b", "svg text"):
        found = browser.run(f"return [...document.querySelectorAll('{selector}')].map((one) => one.textContent)")
        assert any("<script>" in text for text in found)
    assert all("Content Security" not in message for message in browser.console())


def test_quick_and_interrupted_reports_say_so_first(browser, html, interrupted):
    browser.open(interrupted)
    first, second = browser.run("return [...document.querySelectorAll('.banner')].map((banner) => banner.textContent)")
    assert first.startswith("quick: not for quoting")
    assert second.startswith("Interrupted")
    # The watermark stays in view wherever a part of the page is cut out, and lets clicks through.
    browser.run("window.scrollTo(0, 1000)")
    box = browser.run("return document.querySelector('.watermark').getBoundingClientRect().toJSON()")
    assert (box["width"] > 800, box["top"] < 400) == (True, True)
    assert press(browser, 0, "p50 ms") == ["ascending"]
    browser.open(html)
    assert browser.run("return document.querySelectorAll('.banner, .watermark').length") == 0


def test_headings_are_in_order(browser, html):
    browser.open(html)
    levels = browser.run(
        "return [...document.querySelectorAll('h1, h2, h3, h4')].map((heading) => +heading.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_a_large_report_stays_below_5_mb_and_opens(browser):
    picture = sample_report().changed[0]
    large = sample_report(
        rounds=42_000,  # twice that, with the other scopes, for each of six variants
        class_count=1000,
        changed=tuple(msgspec.structs.replace(picture, thumbnail=picture.thumbnail * 40) for _ in range(64)),
    )
    assert sum(len(timed.samples_s) for row in large.rows for timed in (row, *row.scopes.values())) > 500_000
    page = to_html(large)
    assert len(page.encode()) < 5_000_000
    browser.open(page)
    assert browser.run("return document.querySelectorAll('.tall tbody tr').length") == 1000
    assert browser.console() == []
