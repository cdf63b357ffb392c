"""A headless Chromium that is driven over its DevTools protocol: mouse, fingers, questions."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from browser import CHROMIUM
from tornado.websocket import WebSocketClientConnection, websocket_connect
from waiting import wait_for

Answer = TypeVar("Answer")


class Browser:
    """One page, 1000 x 800 pixels; use it as a context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._count = 0

    def __enter__(self) -> Browser:
        self._thread.start()
        profile = Path(self._folder.name)
        self._process = subprocess.Popen(
            [
                str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--disable-sync", "--remote-debugging-port=0", "--window-size=1000,800",
                "--touch-events=enabled", f"--user-data-dir={profile}", "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port_file = profile / "DevToolsActivePort"
        wait_for(lambda: port_file.is_file() and port_file.read_text().count("\n"), "Chromium")
        self._port = int(port_file.read_text().split()[0])
        pages: list[Any] = []
        wait_for(lambda: pages.extend(self._pages()) or pages, "a page")
        self._socket: WebSocketClientConnection = self._await(
            _connect(pages[0]["webSocketDebuggerUrl"])
        )
        self.call("Page.enable")
        self.call("Page.navigate", url=self._url)
        self.wait("location.protocol !== 'about:' && document.readyState === 'complete'")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol."""
        return self._await(self._call(method, parameters))

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript; promises are awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        wait_for(lambda: self.ask(expression), expression)

    def drag_mouse(self, *places: tuple[float, float]) -> None:
        """Press the button at the first place, release it at the last one."""
        names = ["mousePressed", *["mouseMoved"] * (len(places) - 2), "mouseReleased"]
        for name, (x, y) in zip(names, places, strict=True):
            self.call("Input.dispatchMouseEvent", type=name, x=x, y=y, button="left",
                      buttons=1, clickCount=1)  # fmt: skip

    def drag_finger(self, *places: tuple[float, float]) -> None:
        """Touch the first place, lift the finger at the last one."""
        for index, (x, y) in enumerate(places):
            name = "touchMove" if index else "touchStart"
            self.call("Input.dispatchTouchEvent", type=name, touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def click(self, selector: str) -> None:
        """Click the middle of an element."""
        x, y = self.ask(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView(); const a = e.getBoundingClientRect();"
            "return [a.left + a.width / 2, a.top + a.height / 2]; })()"
        )
        self.drag_mouse((x, y), (x, y))

    def picture(self, path: Path) -> None:
        """Save what is on the screen as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _pages(self) -> list[Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/json/list") as answer:
            return [each for each in json.load(answer) if each["type"] == "page"]

    async def _call(self, method: str, parameters: dict[str, Any]) -> Any:
        self._count += 1
        number = self._count
        await self._socket.write_message(
            json.dumps({"id": number, "method": method, "params": parameters})
        )
        while True:
            message = await self._socket.read_message()
            assert message is not None, "Chromium has ended"
            answer = json.loads(message)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _await(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


async def _connect(url: str) -> WebSocketClientConnection:
    return await websocket_connect(url)
