"""Make the pictures of docs/how-to/report.md, from a real run and in a real browser.

    python docs/how-to/pictures/make.py [DIRECTORY]

Needs Debian's chromium. The batch is small, so that it takes a minute; what fails in it does so by
design.
"""

import base64
import hashlib
import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from collector import Collector  # noqa: E402 - a script finds the package of its tree
from collector.cli.program import main  # noqa: E402
from tests.support.browser import Page, browser  # noqa: E402


def thumbnail(clip: str) -> bytes:
    """Take a while, as long jobs do; some clips are damaged, one kills its decoder now and then."""
    number = int(hashlib.blake2b(clip.encode(), digest_size=4).hexdigest(), 16)
    chance = random.Random(number)
    print(f"decoding {clip}")
    time.sleep(chance.lognormvariate(-2.2, 0.9))
    print("frame 1 of 1")
    if number % 37 == 5:
        print(f"{clip}: no key frame within 250 packets, giving up", file=sys.stderr, flush=True)
        os._exit(3)  # as a library of somebody else's does
    if number % 53 == 9:
        raise ValueError(f"{clip}: not a video")
    marker = Path(os.environ["PICTURES"]) / f"{number}.seen"
    if number % 41 == 7 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), 11)
    return chance.randbytes(int(chance.lognormvariate(9, 1.5)))


def write(clip: str) -> None:
    """Write the thumbnail as the job's output."""
    from collector import current_job

    current_job().write(thumbnail(clip))


def shoot(
    page: Page, path: Path, *, dark: bool, top: str = "", width: int = 1100, height: int = 860
) -> None:
    """Save what is to be seen, small: WebP."""
    page.look(dark=dark, width=width, height=height)
    page.evaluate(f"document.querySelector('{top or 'body'}').scrollIntoView()")
    page.evaluate("new Promise(done => setTimeout(done, 300))")  # the canvas follows the window
    data = page.call("Page.captureScreenshot", format="webp", quality=60)["data"]
    path.write_bytes(base64.b64decode(data))
    print(f"{path.name}: {path.stat().st_size // 1024} KiB")


def make(target: Path) -> None:
    """Run the batch, make its page, and take the pictures."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ["PICTURES"] = directory
        batch = Path(directory) / "thumbnails"
        clips = [f"clips/2026-{1 + n // 28:02}-{1 + n % 28:02}.mp4" for n in range(300)]
        logging.disable(logging.WARNING)
        with Collector(max_workers=6, capture=True, retries=1) as collector:
            for _ in collector.collect(write, clips, batch=batch):
                pass
        report = Path(directory) / "report.html"
        main(["report", str(batch), "--html", str(report)])
        with browser() as running:
            page = running.page()
            page.open(report.as_uri())
            shoot(page, target / "report-light.webp", dark=False)
            page.evaluate(
                "[...document.querySelectorAll('.failure')]"
                ".find(e => e.textContent.includes('giving up')).open = true"
            )
            shoot(page, target / "report-dark.webp", dark=True)
            page.open(f"{report.as_uri()}?#filter=is%3Aflaky&sort=-seconds")
            shoot(page, target / "report-filtered.webp", dark=False, top="#h-jobs", height=460)
            assert page.complaints == []


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
