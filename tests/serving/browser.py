"""A Chromium that tests drive over the DevTools protocol, through two pipes: it listens nowhere and needs no driver."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-quic", "--disable-dev-shm-usage",
         "--remote-debugging-pipe")  # fmt: skip
# A test that waits in vain fails.
PATIENCE_S = 60.0
DESKTOP = (1280, 900)
PHONE = (390, 844)
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), " ": (32, " "), "ArrowRight": (39, ""),
        "ArrowLeft": (37, ""), "ArrowDown": (40, ""), "Home": (36, ""), "End": (35, "")}  # fmt: skip


class Browser:
    """The process, and the messages to and from it; each ends with a zero byte."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._held = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Do something and give what came of it."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE_S
        while True:
            told = self._next(end, method)
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                result: dict[str, Any] = told["result"]
                return result
            self.events.append(told)

    def _next(self, end: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no answer to {method}"
            more = os.read(self._read, 2**20)
            assert more, "the browser is gone"
            self._held += more
        line, _, self._held = self._held.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        return told

    @contextmanager
    def page(self, address: str, size: tuple[int, int] = DESKTOP, dark: bool = False) -> Iterator[Page]:
        """Open an address in a window that shares nothing with others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            page.call(f"{domain}.enable")
        page.resize(size)
        page.colours(dark)
        page.open(address)
        try:
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)


class Page:
    """One page: what a person does with it, and what they see."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Do something in this page by the protocol's own name."""
        return self._browser.call(method, self._session, **parameters)

    def open(self, address: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=address)

    def resize(self, size: tuple[int, int]) -> None:
        """Make the window so wide and high, in CSS pixels; narrow ones are telephones."""
        width, height = size
        is_phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=is_phone)

    def colours(self, dark: bool) -> None:
        """Be a system that is dark or light, and that wishes for no motion."""
        wished = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[{"name": name, "value": wished[name]} for name in wished])

    def value(self, expression: str) -> Any:
        """What JavaScript says, as JSON; promises are awaited."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE_S
        while not self.value(f"(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()"):
            assert time.monotonic() < end, f"waited in vain for {expression}: {self.value('document.body.innerText')}"
            time.sleep(0.02)

    def texts(self, selector: str) -> list[str]:
        """What the elements say that a selector finds."""
        all_of = f"[...document.querySelectorAll({json.dumps(selector)})]"
        found: list[str] = self.value(f"{all_of}.map(one => one.textContent)")
        return found

    def middle(self, selector: str) -> tuple[float, float]:
        """The middle of an element, which is scrolled into sight."""
        self.until(f"document.querySelector({json.dumps(selector)})")
        x, y = self.value(
            f"(async () => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center'});"
            # what listens to scrolling hears of it with the next frame
            "for (const _ of [1, 2]) await new Promise(requestAnimationFrame);"
            "const box = one.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2] })()"
        )
        return x, y

    def move(self, selector: str) -> None:
        """Rest the mouse on an element."""
        x, y = self.middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, pointerType="mouse")

    def click(self, selector: str) -> None:
        """Click on an element with the mouse."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Put text where the focus is, as if it was typed or pasted."""
        self.call("Input.insertText", text=text)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other; "Shift+Tab" goes back."""
        for key in keys:
            name = key.removeprefix("Shift+")
            code, text = KEYS[name]
            more = {"key": name, "code": "Space" if name == " " else name, "windowsVirtualKeyCode": code}
            more["modifiers"] = 8 if key != name else 0
            self.call("Input.dispatchKeyEvent", type="keyDown", **more, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **more)

    def screenshot(self, file: Path, whole: bool = False) -> None:
        """Keep what is seen as a PNG."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(told["data"]))

    @property
    def complaints(self) -> list[str]:
        """Errors that the page threw or the browser told in its console so far, refused requests aside."""
        self.value("0")
        told = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            method, given = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                told.append(str(given["exceptionDetails"].get("exception", given["exceptionDetails"])))
            elif method == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning"):
                told.append(str(given["args"]))
            elif method == "Log.entryAdded" and given["entry"]["source"] != "network":
                told.append(given["entry"]["text"])
        return told

    @property
    def requested(self) -> list[str]:
        """Every address that was asked for so far."""
        self.value("0")
        return [
            event["params"]["request"]["url"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] == "Network.requestWillBeSent"
        ]

    def posted(self, end: str) -> list[Any]:
        """The JSON that was posted so far to addresses with this end."""
        self.value("0")
        requests = [
            event["params"]["request"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] == "Network.requestWillBeSent"
        ]
        return [json.loads(one["postData"]) for one in requests if one["url"].endswith(end) and "postData" in one]


@contextmanager
def chromium(profile: Path, flags: Sequence[str] = ()) -> Iterator[Browser]:
    """Run a browser with a profile of its own until the block ends."""
    given, write = os.pipe()
    read, told = os.pipe()
    # the protocol's pipes are file descriptors 3 and 4 of the browser
    line = f'exec "$@" 3<&{given} 4>&{told} {given}<&- {told}>&-'
    command = ["bash", "-c", line, "bash", str(PROGRAM), *FLAGS, f"--user-data-dir={profile}", *flags]
    process = subprocess.Popen(
        command, pass_fds=(given, told), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for end in (given, told):
        os.close(end)
    try:
        browser = Browser(write, read)
        yield browser
        browser.call("Browser.close")
    finally:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for end in (write, read):
            os.close(end)
