"""Controls a headless Chromium by the DevTools protocol through pipes, without driver or port.

With ``--remote-debugging-pipe`` Chromium reads commands from file descriptor 3 and writes answers
and events to 4. Each is a JSON text that ends with a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
    *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--hide-scrollbars"),
)
TIMEOUT_S = 90.0  # for an answer or a condition; long because the machine may be busy


def find_browser() -> str | None:
    """The path of an installed Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class BrowserError(AssertionError):
    """The page raised an exception, or did not answer in time."""


class Page:
    """One tab. Collects ``requests``, and errors, exceptions and violations in ``problems``."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, answers: int) -> None:
        self.process, self._to, self._answers = process, to, answers
        self._buffer, self._number, self._session = b"", 0, None
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Performance"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends one command and returns its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._record(answer)

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Opens a file in a window of the given size."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.send("Page.navigate", url=path.as_uri())

    def wait_for_gallery(self) -> None:
        """Waits until a report marks its first cards, with their images, as ready."""
        self.wait("document.documentElement?.dataset.gallery === 'ready'")

    def run(self, expression: str) -> Any:
        """Evaluates a JavaScript expression and returns its value; promises are awaited."""
        result = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise BrowserError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Waits until the expression is true."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                raise BrowserError(f"never true: {condition}; problems: {self.problems}")
            time.sleep(0.02)

    def press(self, key: str, code: int) -> None:
        """Presses a key, given by its name and its virtual key code."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
            )

    def screenshot(self, path: Path) -> None:
        """Saves a screenshot of the window as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], TIMEOUT_S)
            data = os.read(self._answers, 1 << 20) if ready else b""
            if not data:
                raise BrowserError(f"Chromium is silent or gone (exit {self.process.poll()})")
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _record(self, event: dict[str, Any]) -> None:
        """Adds an event to ``problems`` or ``requests`` if it belongs there."""
        method, details = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(details["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning"):
            self.problems.append(json.dumps(details["args"])[:500])
        elif method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.problems.append(details["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = details["request"]["url"]
            if not url.startswith("data:"):
                self.requests.append(url)


@contextmanager
def chromium(binary: str) -> Iterator[Page]:
    """Starts a Chromium with one tab and a new profile; ends it afterwards."""
    read_commands, to = _high(*os.pipe())
    answers, write_answers = _high(*os.pipe())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                # Bash moves the pipes to the file descriptors that Chromium uses.
                *("bash", "-c", f'exec "$@" 3<&{read_commands} 4>&{write_answers}', "bash"),
                *(binary, *SWITCHES, f"--user-data-dir={profile}"),
            ],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        try:
            yield Page(process, to, answers)
        finally:
            process.kill()
            process.wait(timeout=30)
            os.close(to)
            os.close(answers)


def _high(*descriptors: int) -> list[int]:
    """Moves file descriptors to numbers from 10 on, so that they cannot clash with 3 and 4."""
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in descriptors]
    for number in descriptors:
        os.close(number)
    return moved
