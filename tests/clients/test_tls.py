"""`tollgate serve` with an HTTPS listener, its certificate from a Secret of the folder: curl, openssl, and a reader that
takes its time."""

import json
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import time

import pytest
import yaml

from harness import configuration, process, samples
from harness.configuration import MASTER_KEY
from ports import free_port

CERTIFICATES = pathlib.Path(__file__).resolve().parents[1] / "stages/tests/certificates"
DEADLINE_SECONDS = 20
# More than the buffers of all sockets between provider and client; of a stream every word is an event.
WORDS = "some words in a row "
LONG, LONG_STREAM = WORDS * 400_000, WORDS * 5_000
CALLS_MEANWHILE = 20
CHAT = {"model": "gpt", "messages": samples.HELLO}


class Served:
    """A gateway of one's own, with a plain and an HTTPS listener."""

    def __init__(self, mock_url, folder):
        self.config = folder / "config"
        self.config.mkdir()
        self.plain_port = free_port()
        file = configuration.write_mock_configuration(self.config, mock_url)
        documents = list(yaml.safe_load_all(file.read_text()))
        gateway = next(each for each in documents if each["kind"] == "LLMGateway")
        gateway["spec"]["listeners"] = [
            {"name": "https", "port": 4443, "tls": {"certificateRef": {"name": "gateway-tls"}}},
            {"name": "http", "port": self.plain_port},
        ]
        configuration.write(self.config, documents)
        self.use("one", "one")
        command = [process.binary(), "serve", "--config", str(self.config), "--data", str(folder / "data"), "--host", "127.0.0.1", "--port", "0", "--drain", "5"]
        self.process = process.Process(command, folder / "log")
        self.port = int(self.process.wait_for(r"tollgate .* at https://127\.0\.0\.1:(\d+)").group(1))
        self.plain_url = f"http://127.0.0.1:{self.plain_port}"
        self.url = f"https://localhost:{self.port}"
        process.wait_until_ready(self.process, self.plain_url)

    def use(self, certificate, key):
        """Writes a pair into the Secret, as an editor or cert-manager's exporter does: whole."""
        text = {"tls.crt": (CERTIFICATES / f"{certificate}.crt").read_text(), "tls.key": (CERTIFICATES / f"{key}.key").read_text()}
        partial = self.config.parent / "tls.partial"
        partial.write_text(yaml.safe_dump(configuration.secret("gateway-tls", **text)))
        partial.rename(self.config / "tls.yaml")


@pytest.fixture
def served(mock, tmp_path):
    served = Served(mock.url, tmp_path)
    yield served
    assert served.process.stop() == 0, served.process.story()


def curl(url, *arguments, trust="one"):
    """Exit status of curl, and what it printed."""
    command = ["curl", "--silent", "--show-error", "--max-time", "60", "--noproxy", "*", "--resolve", "localhost:0:127.0.0.1"]
    command += ["--cacert", str(CERTIFICATES / f"{trust}.crt"), "--header", f"authorization: Bearer {MASTER_KEY}"]
    done = subprocess.run([*command, *arguments, url], capture_output=True, text=True, timeout=90)
    return done.returncode, done.stdout + done.stderr


def chat(url, **more):
    return curl(f"{url}/v1/chat/completions", "--header", "content-type: application/json", "--data", json.dumps(CHAT), **more)


def openssl(port, *arguments):
    """What `openssl s_client` says of a handshake."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-alpn", "h2,http/1.1"]
    command += ["-CAfile", str(CERTIFICATES / "one.crt"), "-verify_return_error", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def wait_until(holds, what):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_curl_and_openssl_are_served(served):
    code, said = chat(served.url)
    assert code == 0 and json.loads(said)["choices"], said
    # Nobody is taken for somebody else.
    code, said = chat(served.url, trust="two")
    assert code == 60, said
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to ask with")
    for flag, version in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")]:
        said = openssl(served.port, flag)
        assert re.search(rf"New, {version}|Protocol *: {version}", said) and "Verify return code: 0 (ok)" in said, said
        assert "ALPN protocol: http/1.1" in said, said
    assert "handshake failure" in openssl(served.port, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    # Each listener speaks its own.
    assert chat(f"http://127.0.0.1:{served.port}")[0] != 0
    code, said = chat(served.plain_url)
    assert code == 0 and json.loads(said)["choices"], said


def test_a_new_certificate_is_used_and_a_bad_one_is_said(served):
    def findings():
        _, said = curl(f"{served.plain_url}/health")
        return [text for text in re.findall(r"[^\"]+", said) if "do not make a pair" in text]

    served.use("two", "one")
    wait_until(findings, "what is wrong with the pair is in /health")
    assert chat(served.url)[0] == 0, "the old one stays in use"
    served.use("two", "two")
    wait_until(lambda: chat(served.url, trust="two")[0] == 0, "the new pair is in use")
    assert chat(served.url)[0] == 60, "and the old one is not"
    wait_until(lambda: not findings(), "nothing is wrong any more")


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_reader_gets_everything_and_keeps_nobody_waiting(served, mock, stream):
    text = LONG_STREAM if stream else LONG
    mock.script("upstream-gpt", {"reply": {"text": text}})
    context = ssl.create_default_context(cafile=CERTIFICATES / "one.crt")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(60)
    raw.connect(("127.0.0.1", served.port))
    body = json.dumps({**CHAT, "stream": stream})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {MASTER_KEY}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    with context.wrap_socket(raw, server_hostname="localhost") as reader:
        reader.sendall((head + body).encode())
        received = reader.recv(1024)
        assert received.startswith(b"HTTP/1.1 200"), received
        # It reads a little between the calls of others, which are served.
        for _ in range(CALLS_MEANWHILE):
            code, said = chat(served.url)
            assert code == 0, said
            received += reader.recv(1024)
        while piece := reader.recv(65536):
            received += piece
    if stream:
        assert b"data: [DONE]" in received[-200:]
        texts = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in re.findall(rb"data: (\{.*\})", received) if json.loads(line)["choices"]]
        assert "".join(texts) == text
    else:
        assert json.loads(received[received.index(b"\r\n\r\n"):][4:])["choices"][0]["message"]["content"] == text
