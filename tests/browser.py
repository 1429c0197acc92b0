"""Pages in Chromium: where it is, a server on this machine, and what a page asked for and complained of."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium: Final = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")
PATIENCE: Final = 240_000.0
"""Milliseconds that a page may take, on a machine that is busy with other tests."""

_FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
)  # fmt: skip


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a camera that shows a test pattern."""
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=[*_FLAGS], timeout=PATIENCE)
        yield opened
        opened.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of a folder, without a slash at its end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Opened:
    """A page that is open, what it asked for, and what it complained of in the console."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address, self.requests, self.complaints = page, address, list[str](), list[str]()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(address)


class NetworksPage(Opened):
    """The page of some networks, once it is ready."""

    def __init__(self, page: Page, address: str) -> None:
        super().__init__(page, address)
        page.wait_for_selector("html[data-state]", state="attached")

    @property
    def problem(self) -> str:
        return self.page.locator("#problem").inner_text()

    def labels(self, network: int = 0) -> list[str]:
        """The classes that a network found."""
        card = self.page.locator("article").nth(network)
        card.locator(".label").first.wait_for()
        return card.locator(".label").all_inner_texts()

    def choose(self, content: bytes, name: str = "an.png", kind: str = "image/png") -> None:
        """Choose an image file."""
        self.page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": content})
