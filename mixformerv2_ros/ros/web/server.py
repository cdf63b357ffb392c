"""The server of the page: HTTP and WebSocket by Tornado.

The page is on this machine's loopback interface unless told otherwise. There, requests by another
host name are refused, which a page of somebody else's would use to reach it through a name of its
own (DNS rebinding). On any other interface a token is required. Pages of other origins are refused
everywhere.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from mixformerv2_ros.errors import ImageError, MiddlewareError
from mixformerv2_ros.ros.messages import Level, stamp_ns
from mixformerv2_ros.ros.remote.tracker_view import TrackerView
from mixformerv2_ros.ros.web import protocol
from mixformerv2_ros.ros.web.addresses import own_addresses
from mixformerv2_ros.ros.web.client import LEVELS, Budget, Pace
from mixformerv2_ros.ros.web.pictures import Picture, encode_picture
from mixformerv2_ros.text import printable

STATE_S = 0.2
"""Time between two messages about the state."""
PING_S = 5.0
"""Time after which a page that does not answer is disconnected."""

_STATIC = Path(__file__).with_name("static")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class WebSettings:
    """How the page is served.

    Attributes:
        host: Address to listen on.
        port: Port; 0 is any free one.
        token: What a page must know; empty: nothing, on the loopback interface only.
        max_clients: Pages that are served at the same time.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str = ""
    max_clients: int = 4


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class WebServer:
    """Serves the page for one tracker.

    Attributes:
        url: Address of the page, with its token.
        urls: All of them, where every interface is listened on; `url` first.
        clients: The pages that are connected.
    """

    def __init__(
        self, view: TrackerView, settings: WebSettings, log: Callable[[Level, str], None]
    ) -> None:
        """Listen; pages are served by `run`.

        Args:
            view: The tracker.
            settings: Address, token, limits.
            log: Writes one line.

        Raises:
            MiddlewareError: the address cannot be listened on, or lacks a token.
        """
        if not settings.token and not is_loopback(settings.host):
            raise MiddlewareError(f"a page on {settings.host} requires a token")
        try:
            self._sockets = bind_sockets(settings.port, settings.host)
        except OSError as error:
            reason = error.strerror or str(error)
            raise MiddlewareError(
                f"cannot listen on {settings.host}:{settings.port}: {reason}"
            ) from error
        port = self._sockets[0].getsockname()[1]
        token = f"#{settings.token}" if settings.token else ""
        self.urls = [
            f"http://{f'[{host}]' if ':' in host else host}:{port}/{token}"
            for host in own_addresses(settings.host)
        ]
        self.url = self.urls[0]
        self.clients: set[Page] = set()
        self.view = view
        self.settings = settings
        self.log = log
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="jpeg")
        self._encoding: Any = None
        self._encoded: dict[int, asyncio.Future[Picture]] = {}
        self._undecodable = ""

    async def run(self, stopped: Callable[[], bool]) -> None:
        """Serve until `stopped`, or until the view has failed."""
        loop = asyncio.get_running_loop()
        files = [(path, _File, {"server": self, "name": path}) for path in _FILES]
        application = Application([*files, ("/socket", Page, {"server": self})],
            websocket_ping_interval=PING_S, websocket_ping_timeout=PING_S,
            websocket_max_message_size=protocol.MAX_MESSAGE_BYTES, default_handler_class=_Nothing,
            log_function=lambda handler: None,
        )  # fmt: skip
        http = HTTPServer(
            application, idle_connection_timeout=30, max_header_size=8192, max_body_size=1024
        )
        http.add_sockets(self._sockets)

        def changed() -> None:
            loop.call_soon_threadsafe(self.pump)

        self.view.on_change(changed)
        try:
            while not stopped() and self.view.failure is None:
                await asyncio.sleep(STATE_S)
                for client in list(self.clients):
                    client.send_state()
                self.pump()
        finally:
            self.view.on_change(lambda: None)
            http.stop()
            for client in list(self.clients):
                client.close(1001, "server ends")
            await http.close_all_connections()
            self._encoder.shutdown()
        if self.view.failure is not None:
            raise self.view.failure

    def joined(self, client: Page) -> None:
        """A page has been connected."""
        self.clients.add(client)
        self.view.want_images(True)

    def left(self, client: Page) -> None:
        """A page has been disconnected."""
        self.clients.discard(client)
        self.view.want_images(bool(self.clients))

    def allows(self, handler: RequestHandler) -> bool:
        """Whether a request names this server by a name that is its own."""
        if not is_loopback(self.settings.host):
            return True
        name = str(handler.request.host_name).strip("[]")
        return is_loopback(name)

    def pump(self) -> None:
        """Send the newest image to every page that is ready for one."""
        message = self.view.image()
        if message is None:
            return
        for client in list(self.clients):
            if client.pace.ready and client.last is not message:
                client.last = message
                client.pace.sent()
                client.sending = asyncio.ensure_future(self._send(client, message))

    async def _send(self, client: Page, message: Any) -> None:
        picture = await self._picture(message, client.pace.level)
        if picture is None:
            client.pace.shown()
            return
        stamp = stamp_ns(message)
        frame_id = printable(message.header.frame_id, protocol.MAX_NAME)
        tracks, candidates = self.view.tracks(), self.view.candidates()
        await client.send(protocol.picture(picture, stamp, frame_id, tracks, candidates))

    async def _picture(self, message: Any, level: int) -> Picture | None:
        """The image as JPEG, encoded once per level; None if it cannot be decoded."""
        if message is not self._encoding:
            self._encoding = message
            self._encoded.clear()
        if level not in self._encoded:
            self._encoded[level] = asyncio.get_running_loop().run_in_executor(
                self._encoder, encode_picture, message, *LEVELS[level]
            )
        try:
            return await asyncio.shield(self._encoded[level])
        except ImageError as error:
            if str(error) != self._undecodable:
                self._undecodable = str(error)
                self.log(Level.WARN, f"image cannot be shown: {error}")
            return None


class _Guarded(RequestHandler):
    """Refuses requests that name another host."""

    def initialize(self, server: WebServer, name: str = "") -> None:
        self._server = server
        self._name = name

    def set_default_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        if not self._server.allows(self):
            self.set_status(403)
            self.finish("this page is served to names of this machine only\n")


class _File(_Guarded):
    """One of the three files of the page."""

    def get(self) -> None:
        name, kind = _FILES[self._name]
        self.set_header("Content-Type", kind)
        self.finish((_STATIC / name).read_bytes())


class _Nothing(RequestHandler):
    """Every other path."""

    def prepare(self) -> None:
        self.set_status(404)
        self.finish("not found\n")


class Page(WebSocketHandler, _Guarded):
    """One page that is connected.

    Attributes:
        pace: Size and rate of its pictures.
        last: The image that it was sent last.
        sending: The picture that is under way, if any.
    """

    def prepare(self) -> None:
        """Refuse what is not ours, lacks the token, or is one too many."""
        super().prepare()
        settings = self._server.settings
        if self._finished:
            return
        given = self.get_query_argument("token", "").encode()
        if settings.token and not hmac.compare_digest(given, settings.token.encode()):
            self._refuse(403, "the token is missing or wrong")
        elif len(self._server.clients) >= settings.max_clients:
            self._refuse(503, f"{settings.max_clients} pages are open already")

    def open(self, *args: str, **kwargs: str) -> None:
        """Begin with the title and the sliders."""
        self.pace = Pace()
        self.last: Any = None
        self.sending: asyncio.Future[None] | None = None
        self._budget = Budget()
        self._said = ""
        self._writing: asyncio.Future[None] | None = None
        self._server.joined(self)
        self.set_nodelay(True)
        self._write(protocol.hello(self._server.view.image_topic or ""))
        self.send_state()

    def on_message(self, message: str | bytes) -> None:
        """Do what the page asks for; what it may not is counted, and logged once."""
        try:
            command = protocol.read_command(message)
            if isinstance(command, protocol.Shown) and not self.pace.ready:
                self.pace.shown()
            elif self._budget.spend():
                self._said = self._do(command)
            else:
                raise ValueError("expected fewer commands")
        except ValueError as error:
            self._budget.refused += 1
            if self._budget.refused == 1:
                self._server.log(Level.WARN, f"message of page {self.request.remote_ip}: {error}")
            self._said = str(error)
            if self._budget.exhausted:
                self._server.log(
                    Level.WARN,
                    f"page {self.request.remote_ip} disconnected: too many such messages",
                )
                self.close(1008, "too many messages that are malformed or too fast")

    def on_close(self) -> None:
        """The page is gone."""
        self._server.left(self)

    def send_state(self) -> None:
        """Send the state, unless the last one is still under way."""
        view = self._server.view
        self._write(protocol.state(view.status(), self._said, view.tracks(), view.diagnostics()))

    async def send(self, data: bytes) -> None:
        """Send a picture; nothing happens if the page is gone."""
        try:
            await self.write_message(data, binary=True)
        except WebSocketClosedError:
            self._server.left(self)

    def _write(self, text: str) -> None:
        if self._writing is not None and not self._writing.done():
            return
        try:
            self._writing = asyncio.ensure_future(self.write_message(text))
        except WebSocketClosedError:
            self._server.left(self)
            return
        # What fails to reach a page that is just leaving is no failure of ours.
        self._writing.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _do(self, command: protocol.Command) -> str:
        view = self._server.view
        if isinstance(command, protocol.DrawBox):
            return view.start(command.box, command.target_id, command.stamp_ns, command.frame_id)
        if isinstance(command, protocol.StopTarget):
            return view.stop(command.target_id)
        assert isinstance(command, protocol.ChangeParameter)
        return view.set_parameter(command.name, command.value)

    def _refuse(self, status: int, reason: str) -> None:
        self.set_status(status)
        self.finish(reason + "\n")
