"""A real browser without a window and without network, driven as its own tools drive it.

Debian's Chromium speaks the DevTools protocol over two pipes: one JSON object a message, NUL behind
each.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium: apt-get install chromium"
)
PATIENCE_S = 120.0
AT_3_AND_4 = """
import os, sys
from fcntl import F_DUPFD, fcntl
high = [fcntl(int(fd), F_DUPFD, 10) for fd in sys.argv[1:3]]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEYS = {"Enter": 13, "Tab": 9, "End": 35, "Home": 36, "ArrowUp": 38, "ArrowDown": 40, "Escape": 27}


class Page:
    """One open page.

    Attributes:
        complaints: What the browser's console says is wrong, and exceptions of the page's script.
        requests: Addresses of all that the page loads.
    """

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.painted = False
        browser.pages[session] = self

    def call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, self._session, **parameters)

    def look(self, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """Set the person's colours and the size of the window."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def open(self, url: str) -> None:
        """Open an address, and wait until it is loaded and has been painted."""
        self._load("Page.navigate", url=url)

    def reload(self) -> None:
        """Open what is open again, with all that its address says."""
        self._load("Page.reload")

    def _load(self, method: str, **parameters: Any) -> None:
        self.painted = False
        self.call(method, **parameters)
        self._browser.wait_for(lambda: self.painted)
        self.wait_until("performance.getEntriesByName('first-contentful-paint').length")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of the page's; a promise is waited for."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def wait_until(self, condition: str) -> None:
        """Wait until an expression is true."""
        self.evaluate(
            f"new Promise(done => {{ const look = () => ({condition}) ? done() : "
            "setTimeout(look, 10); look(); })"
        )

    def click(self, selector: str) -> None:
        """Click into the middle of an element, with the mouse."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def mouse(self, what: str, x: float, y: float) -> None:
        """Say what the mouse does."""
        self.call("Input.dispatchMouseEvent", type=what, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key that is in `KEYS`."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = KEYS[key]
        for what in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=what,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **(text if what == "keyDown" else {}),
            )

    def write(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def picture(self, path: Path, **options: Any) -> None:
        """Save what is to be seen."""
        data = self.call("Page.captureScreenshot", **options)["data"]
        path.write_bytes(base64.b64decode(data))

    def print(self) -> bytes:
        """Return the page as a PDF."""
        return base64.b64decode(self.call("Page.printToPDF")["data"])


class Browser:
    """A running browser."""

    def __init__(self, process: "subprocess.Popen[bytes]", read_fd: int, write_fd: int) -> None:
        self.process = process
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._buffer = b""
        self._number = 0
        self._answers: dict[int, Any] = {}
        self.pages: dict[str, Page] = {}

    @contextlib.contextmanager
    def opened(self) -> Iterator[Page]:
        """Open an empty page of somebody who has no other, and close it."""
        person = self.call("Target.createBrowserContext")["browserContextId"]
        yield self.page(browserContextId=person)
        self.call("Target.disposeBrowserContext", browserContextId=person)

    def page(self, **options: str) -> Page:
        """Open an empty page."""
        target = self.call("Target.createTarget", url="about:blank", **options)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Page.setLifecycleEventsEnabled", enabled=True)
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Call a method of the protocol and return its answer."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write_fd, data) :]
        self.wait_for(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def wait_for(self, condition: Any) -> None:
        """Take messages until something holds."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            self._take(end)

    def _take(self, end: float) -> None:
        while b"\0" not in self._buffer:
            left = max(0.0, end - time.monotonic())
            assert select.select([self._read_fd], [], [], left)[0], "the browser does not answer"
            data = os.read(self._read_fd, 1 << 20)
            assert data, "the browser is gone"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        if "id" in message:
            self._answers[message["id"]] = message
        elif (page := self.pages.get(message.get("sessionId", ""))) is not None:
            _tell(page, message["method"], message["params"])


def _tell(page: Page, method: str, told: dict[str, Any]) -> None:
    match method:
        case "Runtime.exceptionThrown":
            page.complaints.append(json.dumps(told["exceptionDetails"]))
        case "Runtime.consoleAPICalled" if told["type"] in {"error", "warning", "assert"}:
            page.complaints.append(json.dumps(told["args"]))
        case "Log.entryAdded":
            page.complaints.append(json.dumps(told["entry"]))
        case "Page.javascriptDialogOpening":
            page.complaints.append(f"a dialog: {told['message']}")
        case "Network.requestWillBeSent":
            page.requests.append(told["request"]["url"])
        case "Page.lifecycleEvent" if told["name"] == "load":
            page.painted = True


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, and end it; nothing of it is left."""
    # Its sockets lie there: a long path, as that of pytest's directory of a test, is refused.
    directory = tempfile.mkdtemp(prefix="cb-")
    try:
        with _browser(directory) as running:
            yield running
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def _browser(directory: str) -> Iterator[Browser]:
    assert CHROMIUM is not None
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    # No name leads anywhere; what is loaded all the same would be seen in `requests`.
    arguments = [
        "--headless=new",
        "--no-sandbox",  # root has no sandbox
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-extensions",
        "--disable-background-networking",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={directory}",
        "--remote-debugging-pipe",
    ]
    at_3_and_4 = (sys.executable, "-S", "-E", "-c", AT_3_AND_4)
    process = subprocess.Popen(
        [*at_3_and_4, f"{down_read}", f"{up_write}", CHROMIUM, *arguments],
        pass_fds=(down_read, up_write),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": directory, "TMPDIR": directory},
    )
    os.close(down_read)
    os.close(up_write)
    try:
        running = Browser(process, up_read, down_write)
        yield running
        with contextlib.suppress(OSError, AssertionError):
            running.call("Browser.close")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(up_read)
        os.close(down_write)
