"""A real HTTP server with Range, which misbehaves as told: one fault per GET, in order, then it is good."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FlakyServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.gets: list[tuple[str, str | None]] = []  # path, Range
        self.served = 0  # bytes of bodies
        self.version = "1"
        self.pace = 0.0  # seconds between blocks of 64 KiB
        self.delays: dict[str, float] = {}  # seconds before an answer
        # shutdown() waits for one interval
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        pass  # a client that goes away is part of the tests


class Handler(BaseHTTPRequestHandler):
    server: FlakyServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.server.gets.append((self.path, self.headers["Range"]))
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        time.sleep(self.server.delays.get(self.path, 0))
        faults = self.server.faults.get(self.path, [])
        fault = faults.pop(0) if faults and body else ""
        if self.path not in self.server.files or fault.isdigit():
            self.send_error(int(fault or 404))
            return
        data, etag = self.server.files[self.path], f'"{self.server.version}"'
        start, wanted = 0, self.headers["Range"]
        if wanted and fault != "whole" and (self.headers["If-Range"] in (None, etag) or fault == "blind"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        rest = data[start:]
        length: int | str = len(rest) + {"more": 1000, "less": -1000}.get(fault, 0)
        if fault == "length that is none":
            length = "much"
            self.close_connection = True
        self.send_header("ETag", etag)
        if fault == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if not body:
            return
        if fault == "chunked":
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))
            return
        if fault in ("drop", "stall"):
            rest = rest[: len(rest) // 2]
        for at in range(0, len(rest), 1 << 16):
            # counted first: a client may look at the count as soon as it has the bytes
            self.server.served += len(rest[at : at + (1 << 16)])
            self.wfile.write(rest[at : at + (1 << 16)])
            time.sleep(self.server.pace)
        if fault == "stall":
            time.sleep(4)
        if fault in ("drop", "stall", "more", "less"):
            self.close_connection = True
