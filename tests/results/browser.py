"""A headless Chromium for tests, driven through chromedriver by the WebDriver protocol."""

import base64
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
)
KEYS = {
    "Enter": "\ue007", "Escape": "\ue00c", "ArrowLeft": "\ue012", "ArrowUp": "\ue013",
    "ArrowRight": "\ue014", "ArrowDown": "\ue015", "Tab": "\ue004",
    "End": "\ue010", "Home": "\ue011",
}  # fmt: skip


class Browser:
    """One window."""

    def __init__(self, client: httpx.Client, session: str) -> None:
        self.client, self.session = client, session

    def ask(self, what: str, path: str, **values: Any) -> Any:
        send = {"get": self.client.get, "delete": self.client.delete}.get(what)
        url = f"/session/{self.session}/{path}".rstrip("/")
        reply = send(url) if send else self.client.post(url, json=values)
        value = reply.json()["value"]
        assert reply.status_code == 200, value
        return value

    def open(self, path: Path, fragment: str = "") -> None:
        self.ask("post", "url", url="about:blank")
        self.ask("post", "url", url=f"{path.resolve().as_uri()}{fragment}")

    def run(self, script: str, *values: Any) -> Any:
        """The value that `script` returns; promises are awaited."""
        return self.ask("post", "execute/sync", script=script, args=list(values))

    def wait(self, script: str, *values: Any) -> Any:
        """Waits until the expression `script` is true, and returns its value."""
        until = time.monotonic() + 30
        while not (found := self.run(f"return ({script})", *values)):
            assert time.monotonic() < until, f"never: {script}"
            time.sleep(0.03)
        return found

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def count(self, selector: str) -> int:
        return int(self.run("return document.querySelectorAll(arguments[0]).length", selector))

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def fill(self, selector: str, value: str) -> None:
        self.run(
            "const field = document.querySelector(arguments[0]); field.value = arguments[1];"
            "for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind))",
            selector, value,
        )  # fmt: skip

    def press(self, *keys: str) -> None:
        actions = [
            {"type": kind, "value": KEYS.get(key, key)}
            for key in keys
            for kind in ("keyDown", "keyUp")
        ]
        self.ask("post", "actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def size(self, width: int, height: int = 900) -> None:
        self.ask("post", "window/rect", width=width, height=height)

    def picture(self) -> bytes:
        return base64.b64decode(self.ask("get", "screenshot"))

    def complaints(self) -> list[str]:
        return [line["message"] for line in self.ask("post", "se/log", type="browser")]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Skips the test where there is no Chromium."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                yield from _session(client, chromium, profile)
        finally:
            process.terminate()
            process.wait()


def _session(client: httpx.Client, chromium: str, profile: str) -> Iterator[Browser]:
    for _ in range(200):
        try:
            client.get("/status")
            break
        except httpx.ConnectError:
            time.sleep(0.05)
    options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={profile}"]}
    wanted = {"browserName": "chrome", "goog:chromeOptions": options}
    wanted["goog:loggingPrefs"] = {"browser": "ALL"}
    reply = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()
    browser = Browser(client, reply["value"]["sessionId"])
    yield browser
    browser.ask("delete", "")
