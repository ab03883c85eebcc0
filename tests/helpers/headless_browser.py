"""Drive Debian's Chromium without a display and without packages, by its debugging protocol over pipes."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time


def executable():
    """Return the path of Chromium or Chrome, or `None`."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextlib.contextmanager
def opened(address, width=1100, height=820):
    """Open a page and yield a `Page`."""
    commands, answers = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:

        def connect():
            # Chromium reads commands from descriptor 3 and writes answers to descriptor 4.
            read, write = os.dup(commands[0]), os.dup(answers[1])
            os.dup2(read, 3)
            os.dup2(write, 4)

        process = subprocess.Popen(
            [
                executable(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--disable-background-networking", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe",
                f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank",
            ],
            preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands[0])
        os.close(answers[1])
        try:
            page = Page(commands[1], answers[0])
            page.open(address, width, height)
            yield page
        finally:
            process.kill()
            process.wait()
            os.close(commands[1])
            os.close(answers[0])


class Page:
    """A page of the browser.

    Args:
        commands, answers: Descriptors of pipes.
    """

    def __init__(self, commands, answers):
        self._commands, self._answers, self._number, self._buffer = commands, answers, 0, b""
        self._session = None
        self.events = []

    def open(self, address, width, height):
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Network", "Log"):
            self.send(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def send(self, method, **parameters):
        """Send a command and return its result; events that arrive before are kept in `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        while b"\0" not in self._buffer:
            block = os.read(self._answers, 2**20)
            assert block, "Chromium has ended."
            self._buffer += block
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression):
        """Return the value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression, seconds=60):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"Not true within {seconds} s: {expression}"
            time.sleep(0.05)

    def choose_file(self, selector, path):
        """Choose a file in an input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[os.path.abspath(path)])

    def screenshot(self, path):
        """Write the visible part of the page as a PNG."""
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def requested(self):
        """Return the addresses of all requests."""
        self.send("Page.getNavigationHistory")
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def problems(self):
        """Return errors and warnings of the page, among them violations of its content security policy."""
        self.send("Page.getNavigationHistory")
        entries = [event["params"] for event in self.events if event["method"] == "Log.entryAdded"]
        thrown = [event["params"] for event in self.events if event["method"] == "Runtime.exceptionThrown"]
        return [entry for entry in entries if entry["entry"]["level"] in ("error", "warning")] + thrown
