"""What no client library sends: broken bodies, smuggling shapes, slow and oversized senders, over raw sockets.

Each gets a clear error in the dialect of its path, reaches no provider, costs nothing, and leaves the gateway well.
"""

import json
import socket
import threading
import time

import pytest

from harness import samples, wire
from harness.configuration import key

pytestmark = pytest.mark.usefixtures("money")

OPENAI, ANTHROPIC = "/v1/chat/completions", "/v1/messages"
PATHS = [OPENAI, ANTHROPIC]
GOOD = {
    OPENAI: {"model": "gpt", "messages": samples.HELLO},
    ANTHROPIC: {"model": "claude", "max_tokens": 64, "messages": samples.HELLO},
}
# Above what `tollgate serve` takes by default, 32 MiB.
TOO_LARGE = 40 << 20
# Slow senders are given up well before this. Seconds.
PATIENCE = 90


def headers(role="normal"):
    return {"authorization": f"Bearer {key('wire', role)}"}


def post(gateway, path, body, **more):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return wire.exchange(gateway.url, wire.request(path, body, {**headers(), **more}))


@pytest.fixture(autouse=True)
def nothing_is_billed(gateway, mock):
    """After each test: the provider billed nothing, and a good call works."""
    before = len(mock.invoice())
    yield
    assert not [row for row in mock.invoice()[before:] if row["billed"]], mock.last_request()
    answer = post(gateway, OPENAI, GOOD[OPENAI])
    assert answer.status == 200, answer.body


@pytest.fixture
def unsent(nothing_is_billed, mock):
    """What is wrong is seen here: the provider does not even see the request."""
    before = mock.status()["requests"]
    yield
    assert mock.status()["requests"] == before, mock.last_request()


def assert_error(answer, path, *statuses):
    """A complete error in the dialect of the path."""
    assert answer is not None, "closed without a word"
    assert answer.status in statuses, (answer.status, answer.body[:500])
    body = answer.json()
    assert body["error"]["message"]
    assert body["error"]["type"]
    if path == ANTHROPIC:
        assert body["type"] == "error"
        assert body["request_id"] == answer.headers["request-id"]
    else:
        assert set(body["error"]) >= {"message", "type", "param", "code"}
        assert isinstance(body["error"]["code"], str)
        assert answer.headers["x-request-id"]


BROKEN = {
    "empty": b"",
    "no JSON": b"hello",
    "cut": b'{"model": "gpt", "messages": [{"role": "user", "content": "he',
    "trailing comma": b'{"model": "gpt", "messages": [],}',
    "two values": b'{"model": "gpt", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]} {}',
    "array": b"[]",
    "null": b"null",
    "number": b"12",
    "string": b'"model"',
    "invalid UTF-8": b'{"model": "gpt", "max_tokens": 5, "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "lone surrogate": b'{"model": "\\ud800", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}',
    "control character": b'{"model": "gpt", "max_tokens": 5, "messages": [{"role": "user", "content": "a\x00b"}]}',
    "byte order mark": b'\xef\xbb\xbf{"model": "gpt", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}',
    "UTF-16": '{"model": "gpt", "messages": []}'.encode("utf-16"),
    "deep": b'{"model": "gpt", "max_tokens": 5, "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep and cut": b'{"model": "gpt", "messages": ' + b'{"a":' * 100_000,
    "not a number": b'{"model": "gpt", "max_tokens": NaN, "messages": [{"role": "user", "content": "x"}]}',
}


@pytest.mark.usefixtures("unsent")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_body(gateway, path, name):
    assert_error(post(gateway, path, BROKEN[name]), path, 400)


WRONG = {
    "no model": {"model": None},
    "model is a number": {"model": 7},
    "model is empty": {"model": ""},
    "model is an object": {"model": {"name": "gpt"}},
    "no messages": {"messages": None},
    "messages are a string": {"messages": "hello"},
    "messages are an object": {"messages": {"role": "user"}},
    "stream is a string": {"stream": "yes"},
    "max_tokens is a string": {"max_tokens": "many"},
    "max_tokens is negative": {"max_tokens": -1},
    "max_tokens overflows": {"max_tokens": 10**30},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_types(gateway, path, name):
    body = {field: value for field, value in {**GOOD[path], **WRONG[name]}.items() if value is not None}
    assert_error(post(gateway, path, body), path, 400)


@pytest.mark.parametrize("path", PATHS)
def test_a_model_named_twice_is_not_two_models(gateway, path):
    other = b'{"model": "forbidden", "model": "gpt", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}'
    assert_error(post(gateway, path, other), path, 400)


@pytest.mark.parametrize("path", PATHS)
def test_a_body_in_a_coding_that_is_not_taken(gateway, path):
    answer = post(gateway, path, b"\x1f\x8b\x08\x00", **{"content-encoding": "gzip"})
    assert_error(answer, path, 400, 415)


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_too_large(gateway, path):
    # Said before it is sent.
    head = wire.request(path, b"", headers()).replace(b"content-length: 0", f"content-length: {TOO_LARGE}".encode())
    assert_error(wire.exchange(gateway.url, head), path, 413)
    # Not said: in chunks.
    head = wire.request(path, b"", headers()).replace(b"content-length: 0", b"transfer-encoding: chunked")
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    with wire.connect(gateway.url) as connection:
        connection.sendall(head)
        try:
            for _ in range(TOO_LARGE >> 20):
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = wire.read_answer(connection)
    # A sender that goes on after the refusal may lose it to the reset of the connection.
    if answer is not None:
        assert_error(answer, path, 413)


def test_huge_headers(gateway):
    answer = post(gateway, OPENAI, GOOD[OPENAI], **{"x-padding": "x" * (2 << 20)})
    assert answer is None or 400 <= answer.status < 500


def test_very_many_headers(gateway):
    answer = post(gateway, OPENAI, GOOD[OPENAI], **{f"x-{n}": "x" for n in range(10_000)})
    assert answer is None or 400 <= answer.status < 500


def test_a_very_long_path(gateway):
    answer = post(gateway, "/v1/" + "x" * (1 << 20), GOOD[OPENAI])
    assert answer is None or 400 <= answer.status < 500


def raw_post(extra, body, path=OPENAI):
    lines = [f"POST {path} HTTP/1.1", "host: gateway", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers().items()] + extra
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


BODY = json.dumps(GOOD[OPENAI]).encode()
CHUNKED = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"
SECOND = wire.request("/v1/models", b"", headers(), "GET")

# Shapes that two servers in a row may read as different requests.
SMUGGLING = {
    "length and chunks": raw_post([f"content-length: {len(BODY)}", "transfer-encoding: chunked"], CHUNKED),
    "chunks and length": raw_post(["transfer-encoding: chunked", f"content-length: {len(CHUNKED)}"], CHUNKED),
    "two lengths": raw_post([f"content-length: {len(BODY)}", f"content-length: {len(BODY) + 1}"], BODY + SECOND),
    "lengths in a list": raw_post([f"content-length: {len(BODY)}, {len(BODY) + 1}"], BODY + SECOND),
    "signed length": raw_post([f"content-length: +{len(BODY)}"], BODY),
    "negative length": raw_post(["content-length: -1"], BODY),
    "length in hex": raw_post([f"content-length: 0x{len(BODY):x}"], BODY),
    "empty length": raw_post(["content-length: "], BODY),
    "huge length": raw_post(["content-length: 99999999999999999999999"], BODY),
    "chunked twice": raw_post(["transfer-encoding: chunked, chunked"], CHUNKED),
    "unknown coding": raw_post(["transfer-encoding: xchunked"], CHUNKED),
    "chunked is not last": raw_post(["transfer-encoding: chunked, identity"], CHUNKED),
    "space before the colon": raw_post([f"content-length : {len(BODY)}"], BODY),
    "folded line": raw_post([f"content-length: {len(BODY)}", "x-folded: a\r\n b"], BODY),
    "folded coding": raw_post(["transfer-encoding:\r\n chunked"], CHUNKED),
    "bare line feeds": raw_post([f"content-length: {len(BODY)}"], BODY).replace(b"\r\n", b"\n"),
    "bare carriage return": raw_post([f"content-length: {len(BODY)}", "x-a: b\rtransfer-encoding: chunked"], BODY),
    "delete in a value": raw_post([f"content-length: {len(BODY)}", "x-a: b\x7fc"], BODY),
    "null in a value": raw_post([f"content-length: {len(BODY)}", "x-a: b\0c"], BODY),
    "chunk size with a sign": raw_post(["transfer-encoding: chunked"], b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk size overflows": raw_post(["transfer-encoding: chunked"], b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    "chunk without its end": raw_post(["transfer-encoding: chunked"], b"5\r\nhelloXX0\r\n\r\n"),
    "request line of HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "no version": b"POST /v1/chat/completions\r\ncontent-length: 0\r\n\r\n",
    "unknown version": raw_post([f"content-length: {len(BODY)}"], BODY).replace(b"HTTP/1.1", b"HTTP/1.9"),
    "space in the path": raw_post([f"content-length: {len(BODY)}"], BODY, path="/v1/chat completions"),
    "address of another host": raw_post([f"content-length: {len(BODY)}"], BODY, path="http://elsewhere/v1/chat/completions"),
    "HTTP/2 without TLS": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS on a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "noise": bytes(range(256)) * 4,
}


@pytest.mark.usefixtures("unsent")
@pytest.mark.parametrize("name", SMUGGLING)
def test_a_smuggling_shape_is_refused_and_the_connection_closed(gateway, name):
    with wire.connect(gateway.url) as connection:
        connection.sendall(SMUGGLING[name])
        # Not half closed: that would be a client that left, whose answer need not be written.
        answer = wire.read_answer(connection)
        assert answer is None or 400 <= answer.status < 600, (answer.status, answer.body)
        # Whatever stood behind it is not taken for a request.
        rest = b""
        try:
            while piece := connection.recv(65536):
                rest += piece
        except ConnectionResetError:
            pass
        assert b"HTTP/1.1 2" not in rest


# Slow senders all at once: each is waited for as long as the gateway waits.
SLOW = {
    "head": b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n",
    "body of the OpenAI dialect": wire.request(OPENAI, b"", headers()).replace(b"content-length: 0", b"content-length: 100") + b"{",
    "body of the Anthropic dialect": wire.request(ANTHROPIC, b"", headers()).replace(b"content-length: 0", b"content-length: 100") + b"{",
}


@pytest.mark.timeout(PATIENCE + 60)
def test_slow_senders_are_given_up(gateway):
    answers = {}

    def send(name):
        with wire.connect(gateway.url) as connection:
            connection.settimeout(PATIENCE)
            connection.sendall(SLOW[name])
            begun = time.monotonic()
            answers[name] = (wire.read_answer(connection), time.monotonic() - begun)

    threads = [threading.Thread(target=send, args=(name,)) for name in SLOW]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) == set(SLOW)
    # Nobody asked anything yet, so closing without a word is right as well.
    head, _ = answers["head"]
    assert head is None or head.status == 408
    assert_error(answers["body of the OpenAI dialect"][0], OPENAI, 408)
    assert_error(answers["body of the Anthropic dialect"][0], ANTHROPIC, 408)


@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_leaves_in_the_middle_of_its_body(gateway, path):
    with wire.connect(gateway.url) as connection:
        connection.sendall(wire.request(path, b"", headers()).replace(b"content-length: 0", b"content-length: 100") + b'{"model"')
        connection.shutdown(socket.SHUT_WR)
        answer = wire.read_answer(connection)
    if answer is not None:
        assert_error(answer, path, 400)


def test_two_requests_on_one_connection_get_two_answers_in_order(gateway):
    first = wire.request("/v1/models/gpt", b"", headers(), "GET")
    second = wire.request("/v1/models/claude", b"", headers(), "GET")
    with wire.connect(gateway.url) as connection:
        connection.sendall(first + second)
        one = wire.read_answer(connection)
        length = int(one.headers["content-length"])
        assert json.loads(one.body[:length])["id"] == "gpt"
        rest = one.body[length:]
        while b"claude" not in rest:
            piece = connection.recv(65536)
            assert piece, rest
            rest += piece


@pytest.mark.parametrize(
    "credential",
    ["", "Bearer", "Bearer ", "Basic c2s6eA==", "Bearer " + "x" * 5000, "Bearer sk-\u00e9"],
)
@pytest.mark.parametrize("path", PATHS)
def test_odd_credentials(gateway, path, credential):
    raw = wire.request(path, json.dumps(GOOD[path]).encode(), {"authorization": credential})
    answer = wire.exchange(gateway.url, raw)
    assert_error(answer, path, 400, 401)
    assert credential[7:] == "" or credential[7:].encode() not in answer.body


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("role", "status"), [("expired", 401), ("disabled", 401), ("poor", 429)])
def test_keys_that_do_not_work(gateway, path, role, status):
    raw = wire.request(path, json.dumps(GOOD[path]).encode(), headers(role))
    assert_error(wire.exchange(gateway.url, raw), path, status)
