"""The page in a real browser, from a file, without network: drawn, sorted, filtered, unfolded.

Pictures of it are kept where `COLLECTOR_PICTURES` says, for whoever wants to look.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.batch.report.html import page_pieces
from collector.batch.report.record import Jobs, ReportedBatch, Worker
from tests.support import leaks
from tests.support.browser import Browser, Page, browser, needs_chromium
from tests.support.reported import (
    BEGIN,
    SCRIPT,
    attempt,
    batch,
    failed,
    hostile,
    job,
    many,
    one_of_each,
)

pytestmark = [needs_chromium, pytest.mark.xdist_group("browser")]
"""Not that they must not run beside others: the browser is started once, not by each process."""

FIRST_NAME = "document.querySelector('#jobs tr.row td').textContent"
NAMES = "[...document.querySelectorAll('#jobs tr.row')].map(row => row.cells[0].textContent)"
SHOWN = "document.querySelector('#shown').textContent"
IS_DRAWN = """(() => {
  const canvas = document.querySelector('canvas'), pen = canvas.getContext('2d');
  const data = new Uint32Array(pen.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return new Set(data).size > 4;
})()"""


@pytest.fixture(name="running", scope="module")
def _running() -> Iterator[Browser]:
    """One browser for all: to start one takes a second of processor time."""
    with browser() as running:
        leaks.shared_by_tests.add(running.process.pid)
        with running.opened():  # until then it may start what outlives its parent
            pass
        yield running
        leaks.shared_by_tests.remove(running.process.pid)


@pytest.fixture
def page(running: Browser) -> Iterator[Page]:
    """A page of its own, of a person who has opened no other."""
    with running.opened() as page:
        yield page


def opened(page: Page, tmp_path: Path, jobs: Jobs, of: ReportedBatch | None = None) -> Path:
    """Write a report, and open it; the browser has nothing against it and loads nothing else."""
    path = tmp_path / "report.html"
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.writelines(page_pieces(of or batch(), jobs))
    page.open(path.as_uri())
    assert_quiet(page, path)
    return path


def assert_quiet(page: Page, path: Path) -> None:
    assert page.complaints == []
    assert {url.partition("#")[0] for url in page.requests} == {path.as_uri()}


def keep_picture(page: Page, tmp_path: Path, name: str) -> int:
    """Take a picture; returns its size: a page of one colour is some kilobytes."""
    directory = Path(os.environ.get("COLLECTOR_PICTURES", tmp_path))
    path = directory / f"{name}.png"
    page.picture(path)
    return path.stat().st_size


@pytest.mark.parametrize(
    ("count", "dark"),
    [
        pytest.param(100, False, id="100-light", marks=pytest.mark.slow),
        pytest.param(10_000, True, id="10000-dark", marks=pytest.mark.slow),
        pytest.param(100, True, id="100-dark", marks=pytest.mark.campaign),
        pytest.param(100_000, False, id="100000-light", marks=pytest.mark.campaign),
        pytest.param(100_000, True, id="100000-dark", marks=pytest.mark.campaign),
    ],
)
def test_it_is_drawn(page: Page, tmp_path: Path, count: int, dark: bool) -> None:
    page.look(dark=dark, height=1400)
    path = opened(page, tmp_path, [*many(count), *one_of_each()], batch(inputs=count + 20))
    assert page.evaluate(IS_DRAWN)
    assert page.evaluate(SHOWN) == f"{count + 12:,} jobs"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(15, 20, 25)" if dark else "rgb(255, 255, 255)")
    assert page.evaluate("document.querySelectorAll('#jobs tr').length") < 60
    scheme = "dark" if dark else "light"
    assert keep_picture(page, tmp_path, f"whole-{count}-{scheme}") > 20_000
    page.click("#jobs th:nth-child(5) button")
    slowest = page.evaluate(
        "[...document.querySelectorAll('#jobs tr.row')].map(r => +r.dataset.at)"
    )
    assert slowest[:3] == [0, 1, 2]
    assert page.evaluate("document.querySelector('[aria-sort]').ariaSort") == "descending"
    page.click("#filter")
    page.write("is:failed clip")
    page.wait_until(f"{SHOWN}.includes(' of ')")
    page.evaluate("document.querySelector('#h-jobs').scrollIntoView()")
    assert keep_picture(page, tmp_path, f"sorted-and-filtered-{count}-{scheme}") > 20_000
    page.evaluate("scrollTo(0, 0)")
    page.click("details.failure summary")
    assert page.evaluate("document.querySelector('details.failure').open")
    assert keep_picture(page, tmp_path, f"failure-{count}-{scheme}") > 20_000
    assert_quiet(page, path)


@pytest.mark.slow
def test_the_end_of_100_000_rows_is_reached_by_keys(page: Page, tmp_path: Path) -> None:
    path = opened(page, tmp_path, many(100_000))
    page.evaluate("document.querySelector('#jobs tr.row').focus()")
    page.press("End")
    page.wait_until("document.activeElement.dataset.at === '99999'")
    assert page.evaluate("document.activeElement.cells[0].textContent") == "clip 99999.mp4"
    page.press("ArrowUp")
    assert page.evaluate("document.activeElement.dataset.at") == "99998"
    visible = page.evaluate(
        "(() => { const r = document.activeElement.getBoundingClientRect(), "
        "s = document.querySelector('#scroller').getBoundingClientRect(); "
        "return r.top >= s.top && r.bottom <= s.bottom + 1; })()"
    )
    assert visible
    page.press("Enter")
    assert page.evaluate("document.querySelector('#job').open")
    assert page.evaluate("document.querySelector('#job-name').textContent") == "clip 99998.mp4"
    page.press("Escape")
    page.wait_until("!document.querySelector('#job').open")
    assert page.evaluate("document.activeElement.dataset.at") == "99998"
    page.press("Home")
    assert page.evaluate("document.activeElement.cells[0].textContent") == "clip 0.mp4"
    assert_quiet(page, path)


@pytest.mark.slow
def test_each_head_sorts_down_up_and_not_at_all(page: Page, tmp_path: Path) -> None:
    jobs = [job(n, attempt(n, seconds=1 + n % 7, size=n % 5), name=f"j {n}") for n in range(12)]
    path = opened(page, tmp_path, jobs)
    own = page.evaluate(NAMES)
    assert own == [f"j {n}" for n in range(12)]
    page.click("#jobs th:nth-child(1) button")
    assert page.evaluate(NAMES) == own  # by number, not by letter
    page.click("#jobs th:nth-child(1) button")
    assert page.evaluate(NAMES) == own[::-1]
    page.click("#jobs th:nth-child(1) button")
    assert page.evaluate("document.querySelector('[aria-sort]')") is None
    for column in range(1, 10):
        page.click(f"#jobs th:nth-child({column}) button")
        once = page.evaluate(NAMES)
        page.click(f"#jobs th:nth-child({column}) button")
        assert sorted(page.evaluate(NAMES)) == sorted(once) == sorted(own)
        page.click(f"#jobs th:nth-child({column}) button")
        assert page.evaluate(NAMES) == own
    page.click("#jobs th:nth-child(5) button")
    assert page.evaluate(FIRST_NAME) == "j 6"
    assert_quiet(page, path)


FILTERS = {
    "is:failed": [1, 2, 3, 4, 5, 11],
    "is:failed -is:crash": [1, 3, 4, 5, 11],
    "is:flaky": [10],
    "is:timeout": [3],
    "is:running": [12],
    "is:retried": [10, 11],
    "IN/15": [15],
    "no good job": [10, 11],
    "worker:9": [],
}


@pytest.mark.slow
def test_workers_of_shards_have_lines_of_their_own_and_are_found(
    page: Page, tmp_path: Path
) -> None:
    places = [Worker("1of2", 10), Worker("1of2", 9), Worker("2of2", 9), None, Worker("", 9)]
    jobs = [job(n, attempt(n, worker=place)) for n, place in enumerate(places)]
    path = opened(page, tmp_path, jobs)
    label = "document.querySelector('#timeline canvas').getAttribute('aria-label')"
    assert "on 5 workers" in page.evaluate(label)
    page.click("#jobs th:nth-child(7) button")
    assert page.evaluate(NAMES) == ["job 3", "job 1", "job 0", "job 2", "job 4"]
    page.evaluate("document.querySelector('#filter').select()")
    page.write("worker:1of2/9")
    page.wait_until("location.hash.includes('2%2F9')")
    assert page.evaluate(NAMES) == ["job 1"]
    assert_quiet(page, path)


@pytest.mark.slow
def test_the_filter_takes_words_and_the_address_keeps_them(page: Page, tmp_path: Path) -> None:
    path = opened(page, tmp_path, one_of_each())
    for words, numbers in FILTERS.items():
        page.evaluate("document.querySelector('#filter').select()")
        page.write(words)
        page.wait_until(
            f"location.hash.slice(1) === '' + new URLSearchParams({{filter: '{words}'}})"
        )
        assert page.evaluate(NAMES) == [f"job {number}" for number in numbers]
        assert page.evaluate(SHOWN) == f"{len(numbers)} of 12 jobs"
    page.click("#jobs th:nth-child(1) button")
    page.evaluate("document.querySelector('#filter').select()")
    page.write("is:failed")
    page.wait_until("location.hash === '#filter=is%3Afailed&sort=name'")
    page.click("#jobs th:nth-child(1) button")
    page.reload()
    assert page.evaluate(NAMES) == [f"job {number}" for number in (11, 5, 4, 3, 2, 1)]
    assert_quiet(page, path)


@pytest.mark.slow
def test_nothing_of_a_job_runs(page: Page, tmp_path: Path) -> None:
    path = opened(page, tmp_path, hostile(), batch(name=SCRIPT, what=SCRIPT))
    assert page.evaluate("document.title") == SCRIPT
    assert page.evaluate("document.querySelectorAll('img, iframe, object').length") == 0
    assert page.evaluate("[...document.querySelectorAll('script')].length") == 2  # facts and ours
    count = page.evaluate("document.querySelectorAll('details.failure').length")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    for at in range(count):
        page.evaluate(f"document.querySelectorAll('#jobs tr.row')[{at}].click()")
        assert page.evaluate("document.querySelector('#job').open")
        page.evaluate("document.querySelector('#job').close()")
    keep_picture(page, tmp_path, "hostile")
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0  # a name of 10,000 characters makes it no wider
    assert_quiet(page, path)


@pytest.mark.slow
def test_the_timeline_zooms_by_keys_and_opens_a_job(page: Page, tmp_path: Path) -> None:
    jobs = [job(n, attempt(n, 0.9, worker=n % 2), name=f"j {n}") for n in range(20)]
    # A second run, a day later: what lies between is a narrow break.
    jobs += [job(50 + n, attempt(86_400 + n, 0.9, worker=n % 2)) for n in range(20)]
    path = opened(page, tmp_path, jobs)
    label = "document.querySelector('canvas').ariaLabel"
    whole = page.evaluate(label)
    assert "Timeline of 40 attempts on 2 workers" in whole
    page.click("[data-zoom=in]")
    page.click("[data-zoom=left]")
    assert page.evaluate(label) != whole
    page.click("[data-zoom=all]")
    assert page.evaluate(label) == whole
    keep_picture(page, tmp_path, "timeline-of-two-runs")
    x, y = page.evaluate(
        "(() => { const r = document.querySelector('canvas').getBoundingClientRect(); "
        "return [r.x + 70, r.y + 30]; })()"
    )
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    assert page.evaluate("document.querySelector('#job').open")
    assert page.evaluate("document.querySelector('#job-name').textContent") == "j 0"
    assert_quiet(page, path)


@pytest.mark.slow
def test_it_can_be_printed(page: Page, tmp_path: Path) -> None:
    page.look(dark=True)
    path = opened(page, tmp_path, many(2000))
    assert page.print().startswith(b"%PDF-")
    assert page.evaluate(SHOWN) == "2,000 jobs"
    assert_quiet(page, path)


@pytest.mark.slow
def test_a_batch_in_which_nothing_has_run_is_drawn_too(page: Page, tmp_path: Path) -> None:
    opened(page, tmp_path, [], batch(sessions=(), inputs=7))
    assert page.evaluate("document.querySelector('#jobs .none').textContent") == (
        "No job has begun yet."
    )
    odd = attempt()._replace(start=BEGIN, end=1e300)
    opened(page, tmp_path, [job(1, odd), job(2, attempt()._replace(start=-1e300, end=0.0))])
    opened(page, tmp_path, [], batch(sessions=(), inputs=7))
    facts = page.evaluate(
        "[...document.querySelectorAll('.facts dt')].map(each => each.textContent)"
    )
    assert facts == ["Output"]  # nothing began at any time


TEXTS_AND_BARS = """
const pen = CanvasRenderingContext2D.prototype, text = pen.fillText, bar = pen.fillRect;
window.texts = []; window.bars = [];
pen.fillText = function (what, x, ...more) {
  const wide = this.measureText(what).width, left = this.textAlign === "center" ? x - wide / 2 : x;
  texts.push([what, left, left + wide]);
  return text.call(this, what, x, ...more);
};
pen.fillRect = function (x, ...more) { if (x) bars.push(x); return bar.call(this, x, ...more); };
"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "last"), [(400, "+20 s"), (1280, "+30 s")])
def test_no_text_of_the_timeline_is_cut_or_lies_under_a_bar(
    page: Page, tmp_path: Path, width: int, last: str
) -> None:
    page.look(width=width)
    page.call("Page.addScriptToEvaluateOnNewDocument", source=TEXTS_AND_BARS)
    jobs = [job(n, attempt(n, worker=Worker("12of12", n % 3)), name="") for n in range(30)]
    opened(page, tmp_path, jobs)
    texts, first = page.evaluate("[texts, Math.min(...bars)]")
    assert {"0", last, "worker 12of12/2"} <= {what for what, _, _ in texts}
    end = page.evaluate("document.querySelector('#timeline').clientWidth")
    assert all(left >= 0 and right <= end for _, left, right in texts), texts
    assert all(right <= first for what, _, right in texts if "of" in what), (first, texts)


@pytest.mark.slow
def test_a_narrow_window_breaks_no_word_and_a_short_table_leaves_no_hole(
    page: Page, tmp_path: Path
) -> None:
    page.look(width=400)
    jobs = [job(n, failed(n), attempt(n + 1, number=2), name=f"j {n}") for n in range(3)]
    path = opened(page, tmp_path, jobs)
    room = "document.querySelector('#scroller').clientHeight"
    assert 4 * 30 <= page.evaluate(room) < 5 * 30
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('figure *')].filter(each => each.innerText)"
        ".map(each => parseFloat(getComputedStyle(each).fontSize)))"
    )
    assert smallest >= 12
    assert page.evaluate("document.querySelectorAll('figure text').length") == 0  # it would shrink
    page.evaluate("document.querySelectorAll('#jobs tr.row')[1].click()")
    cells = "[...document.querySelectorAll('dialog tr > :not(:last-child)')]"
    lines = page.evaluate(f"{cells}.map(each => each.offsetHeight)")
    assert max(lines) < 2 * 20, lines
    wide = page.evaluate("document.querySelector('dialog').scrollWidth")
    assert wide <= 400
    keep_picture(page, tmp_path, "narrow")
    assert_quiet(page, path)


@pytest.mark.slow
def test_of_a_name_that_does_not_fit_the_end_is_seen(page: Page, tmp_path: Path) -> None:
    name = "/a/folder/of/clips/" + "long " * 50 + "{}.mp4"
    jobs = [job(n, name=name.format(n), input=f"{n} short") for n in range(3)]
    path = opened(page, tmp_path, jobs)
    assert page.evaluate(NAMES) == [each.name for each in jobs]
    end, right = page.evaluate(
        "(() => { const cell = document.querySelector('#jobs tr.row td'), "
        "end = cell.querySelector('span:last-child'); "
        "return [end.getBoundingClientRect().right, cell.getBoundingClientRect().right]; })()"
    )
    assert end <= right
    assert page.evaluate("document.querySelector('.parts').innerText").endswith("0.mp4")
    assert_quiet(page, path)


@pytest.mark.slow
def test_names_have_room_on_paper(page: Page, tmp_path: Path) -> None:
    page.look(width=700)  # as wide as a sheet
    path = opened(page, tmp_path, [job(n, name=f"clips/of/may/{n}.mp4") for n in range(3)])
    page.call("Emulation.setEmulatedMedia", media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    cell = "document.querySelector('#jobs tr.row').cells"
    widths = page.evaluate(f"[...{cell}].map(each => each.offsetWidth)")
    assert min(widths[at] for at in (0, 7, 8)) > max(widths[2:7]), widths
    assert_quiet(page, path)
