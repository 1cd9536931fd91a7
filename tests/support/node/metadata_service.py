"""Instance metadata over HTTP on loopback: the local cloud's, which can also be busy or away."""

from __future__ import annotations

from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from horovod_local.instances.instance_metadata import InstanceMetadata


class MetadataService:
    """
    Serves instance metadata until it is closed.

    Args:
        items: Texts by path below `/latest/meta-data/`.
    """

    def __init__(self, items: Mapping[str, str]) -> None:
        self.metadata = InstanceMetadata(items)
        self.busy = 0
        """Requests that are answered with 503 first."""
        self.away = False
        """Whether every connection ends without an answer."""
        self.forgetful = False
        """Whether every token has expired when it is used."""
        self.asked: list[tuple[str, str]] = []
        """Method and path of every request."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def _answer(self) -> None:
                service.asked.append((self.command, self.path))
                if service.forgetful and self.command == "GET":
                    service.metadata.expire_tokens()
                status, text = service.metadata.answer(self.command, self.path, self.headers)
                # Behind the answer: what is announced while the service is away must not slip through.
                if service.away:
                    self.close_connection = True
                    return
                if service.busy:
                    service.busy -= 1
                    status, text = 503, ""
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: ARG002 - the signature is http.server's
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def tokens_given(self) -> int:
        """How often a token was asked for."""
        return sum(1 for method, _ in self.asked if method == "PUT")

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
