"""A proxy in front of an object store that injects network and server faults into requests.

It forwards requests unchanged, including their Host header, so that the client's signatures are
valid. A fault that does not fit a request (such as a truncated body, for a request without one) is
not injected and not counted.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

STALL_S = 30.0  # longest stall of a response; clients disconnect earlier
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass(frozen=True)
class Answer:
    """A response of the store."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    length: int  # from its header: the response to a HEAD has a length, but no body


@dataclass
class Request:
    """A request of the client, with its body."""

    method: str
    target: str  # path and query
    headers: list[tuple[str, str]]
    body: bytes
    number: int  # from 0, in the order of arrival

    @property
    def name(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass
class FaultyProxy:
    """Listens on 127.0.0.1; ``choose`` returns the fault for a request, or None."""

    upstream: tuple[str, int]
    choose: Callable[[Request], str | None] = lambda request: None
    rewrite: Callable[[Request], Request] = lambda request: request
    met: Counter[str] = field(default_factory=Counter)  # injected faults by name
    num_requests: int = 0
    url: str = ""

    def next_number(self) -> int:
        with self._lock:
            self.num_requests += 1
            return self.num_requests - 1

    def forward(self, request: Request) -> Answer:
        """Sends the request to the store."""
        request = self.rewrite(request)
        connection = http.client.HTTPConnection(*self.upstream, timeout=60)
        try:
            connection.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers:
                if name.lower() not in HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(request.body or None)
            answer = connection.getresponse()
            body = answer.read()
            headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in HOP_BY_HOP]
            length = int(answer.getheader("Content-Length") or len(body))
            return Answer(answer.status, headers, body, length)
        finally:
            connection.close()

    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


@contextmanager
def faulty_proxy(upstream_url: str) -> Iterator[FaultyProxy]:
    """A proxy in front of the server with this url; at first it injects no faults."""
    parts = urlsplit(upstream_url)
    proxy = FaultyProxy((parts.hostname or "", parts.port or 80))

    class Handler(_Handler):
        pass

    Handler.proxy = proxy
    server = _Server(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def paging(key: str, secret: str, page: int) -> Callable[[Request], Request]:
    """Rewrites listings to pages of this many names, and signs the changed query."""
    signer = S3SigV4Auth(Credentials(key, secret), "s3", "us-east-1")

    def rewrite(request: Request) -> Request:
        if request.query.get("list-type") != "2":
            return request
        query = urlencode(request.query | {"max-keys": str(page)}, quote_via=quote)
        target = f"{request.name}?{query}"
        signed = AWSRequest("GET", f"http://{request.header('host')}{target}")
        signer.add_auth(signed)
        headers = [("Host", request.header("host") or ""), *signed.headers.items()]
        return replace(request, target=target, headers=headers)

    return rewrite


def seeded(seed: int, share: float, *faults: str) -> Callable[[Request], str | None]:
    """A ``choose`` that injects one of the faults into this share of requests, by their number."""

    def choose(request: Request) -> str | None:
        generator = random.Random(f"{seed}/{request.number}")
        return generator.choice(faults) if generator.random() < share else None

    return choose


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients disconnect during faults, as they should


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    proxy: FaultyProxy

    def handle_request(self) -> None:
        request = Request(
            self.command, self.path, list(self.headers.items()), b"", self.proxy.next_number()
        )
        assert "chunked" not in (request.header("transfer-encoding") or "")
        length = int(request.header("content-length") or 0)
        fault = self.proxy.choose(request)
        if fault == "reset" and length > 1:
            self._count(fault)
            self.rfile.read(length // 2)
            return self._reset()
        request.body = self.rfile.read(length)
        if fault == "412" and request.header("if-none-match") == "*":
            return self._refuse(fault, 412, "PreconditionFailed")
        if fault in ERRORS:
            return self._refuse(fault, int(fault), ERRORS[fault])
        answer = self.proxy.forward(request)
        if fault == "500 after" and request.method in ("PUT", "DELETE"):
            return self._refuse(fault, 500, ERRORS["500"])
        if fault in BODY_FAULTS and answer.status == 200 and len(answer.body) > 1:
            self._count(fault)
            return self._half(fault, answer)
        return self._send(answer, answer.length, answer.body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request

    def _half(self, fault: str, answer: Answer) -> None:
        """Sends the first half of a body, and then does what the fault requires."""
        half = answer.body[: len(answer.body) // 2]
        if fault == "short":  # for HTTP the response is complete
            return self._send(answer, len(half), half)
        self._send(answer, answer.length, half)
        if fault == "reset":
            return self._reset()
        if fault == "stall":
            self.connection.settimeout(STALL_S)
            with suppress(OSError):
                self.connection.recv(1)  # returns when the client disconnects
        self.close_connection = True
        return None

    def _refuse(self, fault: str, status: int, code: str) -> None:
        self._count(fault)
        body = b"" if self.command == "HEAD" else ERROR_XML.format(code).encode()
        self._send(Answer(status, [("Content-Type", "application/xml")], body, 0), len(body), body)

    def _send(self, answer: Answer, length: int, body: bytes) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _reset(self) -> None:
        """Closes with RST instead of FIN, so that the peer gets an error."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _count(self, fault: str) -> None:
        self.proxy.met[fault] += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass


ERROR_XML = "<?xml version='1.0'?><Error><Code>{}</Code><Message>injected</Message></Error>"
ERRORS = {
    "503": "SlowDown",
    "429": "TooManyRequests",
    "500": "InternalError",
    "403": "AccessDenied",
    "507": "InsufficientStorage",
}
BODY_FAULTS = ("reset", "stall", "cut", "short")
