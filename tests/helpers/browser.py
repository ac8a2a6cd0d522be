"""A headless Chromium, driven over its own protocol: what a page draws, says, asks for, and does with keys.

It is looked for under `BABYGPT_CHROMIUM`, then among the names that systems give it. axe-core, which checks whether a
page can be used without eyes or hands, is a file named by `BABYGPT_AXE`; `make test-browser` installs and names it.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self

import aiohttp

_NAMES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)
_SECONDS = 30.0
_CODES = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Escape": 27, "Tab": 9}


def find_chromium() -> str:
    """The program; who asks for a browser's tests is told where there is none."""
    named = os.environ.get("BABYGPT_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    assert found, "no Chromium here: install one, or name it in BABYGPT_CHROMIUM"
    return found


class Browser:
    """A Chromium with one page open at a time.

    Attributes:
        problems: errors and warnings of the page's console, its exceptions, and what its policy refused.
        requests: every address that it asked for.
    """

    def __init__(self, program: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="babygpt-browser-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [
                program,
                *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
                *("--remote-debugging-port=0", f"--user-data-dir={self._folder.name}", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._loop = asyncio.new_event_loop()
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._loaded = asyncio.Event()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._do(self._connect())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._process.terminate()
        self._process.wait(timeout=30)
        self._loop.close()
        self._folder.cleanup()

    def open(self, page: Path | str, *, width: int = 1100, height: int = 900, dark: bool = False) -> None:
        """Loads a file, or an address, and waits until it has."""
        self.problems.clear()
        self.requests.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        self._loaded.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        self._do(asyncio.wait_for(self._loaded.wait(), _SECONDS))

    def evaluate(self, code: str) -> Any:
        """The value of an expression in the page; of a promise, what it becomes."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def violations(self) -> list[Any]:
        """What axe-core finds wrong with the page: each rule with the elements that break it."""
        axe = os.environ.get("BABYGPT_AXE")
        assert axe, "no axe-core here: `make test-browser` brings it, or name its axe.min.js in BABYGPT_AXE"
        self.evaluate(Path(axe).read_text(encoding="utf-8") + "; 0")
        found: list[Any] = self.evaluate(
            "axe.run(document).then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))"
        )
        return found

    def press(self, key: str, *, shift: bool = False) -> None:
        """Presses a key where the page's focus is."""
        about: dict[str, Any] = {"key": key, "modifiers": 8 if shift else 0}
        if key in _CODES:
            about |= {"windowsVirtualKeyCode": _CODES[key], "code": key}
            self.call("Input.dispatchKeyEvent", type="rawKeyDown", **about)
        else:
            self.call("Input.dispatchKeyEvent", type="keyDown", text=key, **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """A mouse event: mouseMoved, mousePressed or mouseReleased."""
        held = {"mouseMoved": 0, "mousePressed": 1, "mouseReleased": 0}[kind]
        button = "none" if kind == "mouseMoved" else "left"
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=held, clickCount=1)

    def screenshot(self, target: Path, *, whole: bool = False) -> None:
        """What is to be seen, or the whole page, as PNG."""
        answer = self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole)
        )
        target.write_bytes(base64.b64decode(answer["data"]))

    def call(self, method: str, **params: Any) -> Any:
        """A command of the protocol, and its answer."""
        return self._do(self._call(method, params))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    async def _connect(self) -> None:
        told = Path(self._folder.name) / "DevToolsActivePort"
        until = time.monotonic() + _SECONDS
        while not (told.exists() and told.read_text().strip()):
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError("Chromium does not start")
            await asyncio.sleep(0.05)
        port = told.read_text().splitlines()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            (tab,) = [each for each in await answer.json() if each["type"] == "page"]
        self._socket = await self._session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._call(f"{domain}.enable", {})

    async def _close(self) -> None:
        self._reader.cancel()
        await self._socket.close()
        await self._session.close()

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        answer = await asyncio.wait_for(self._answers[number], _SECONDS)
        del self._answers[number]
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    async def _read(self) -> None:
        async for message in self._socket:
            value = json.loads(message.data)
            if "id" in value:
                self._answers[value["id"]].set_result(value)
            else:
                self._note(value["method"], value["params"])

    def _note(self, method: str, about: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(about["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and about["entry"]["level"] != "verbose":
            self.problems.append(about["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.problems.append(json.dumps(about["args"])[:500])
