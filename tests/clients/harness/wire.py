"""HTTP/1.1 by hand, for what no client library would send."""

import json
import socket

ANSWER_SECONDS = 30


class Answer:
    """A response, or as much of one as came before the connection closed."""

    def __init__(self, raw):
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ", 2)
        self.status = int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else None
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()

    def json(self):
        return json.loads(self.body)


def address(url):
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def connect(url):
    return socket.create_connection(address(url), timeout=ANSWER_SECONDS)


def read_answer(connection):
    """One response with a content-length, or all bytes until the end. `None`: closed without a byte."""
    raw = b""
    while True:
        head, found, body = raw.partition(b"\r\n\r\n")
        if found:
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:") and len(body) >= int(line.partition(b":")[2]):
                    return Answer(raw)
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            piece = b""
        if not piece:
            return Answer(raw) if raw else None
        raw += piece


def exchange(url, raw):
    """Sends bytes as they are and reads one response."""
    with connect(url) as connection:
        try:
            connection.sendall(raw)
        except (BrokenPipeError, ConnectionResetError):
            # The answer may have been sent before the request was read to its end.
            pass
        return read_answer(connection)


def request(path, body, headers, method="POST"):
    """The bytes of a well-formed request."""
    lines = [f"{method} {path} HTTP/1.1", "host: gateway", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
