"""Load of a steady kind until standard input ends: some workers make unary calls, some read streams. Every call counts.
Standard library only, so that it runs in a pod and beside the tests alike.

Argument: JSON {url, key, unary: {workers, model, pause}, streams: {workers, model}}, pause in seconds. Prints a line when
every worker has had its first answer, then one with what happened."""

import http.client
import json
import select
import sys
import threading
import time
import urllib.parse

CALL_SECONDS = 60

settings = json.loads(sys.argv[1])
address = urllib.parse.urlsplit(settings["url"])
stopping = threading.Event()
lock = threading.Lock()
result = {"unary": 0, "streams": 0, "failed": [], "cut": [], "reconnects": 0, "slowest": 0.0}
begun = threading.Semaphore(0)


class Client:
    """A connection that is kept, as applications keep theirs: one that the other side closed is not used again."""

    def __init__(self):
        self.connection = None

    def post(self, body):
        if self.connection is not None and self.connection.sock is not None and select.select([self.connection.sock], [], [], 0)[0]:
            self.close()
        if self.connection is None or self.connection.sock is None:
            self.close()
            self.connection = http.client.HTTPConnection(address.hostname, address.port or 80, timeout=CALL_SECONDS)
            with lock:
                result["reconnects"] += 1
        headers = {"Authorization": "Bearer " + settings["key"], "Content-Type": "application/json"}
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        return self.connection.getresponse()

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def unary(client, model):
    answer = client.post({"model": model, "messages": [{"role": "user", "content": "say something"}]})
    text = answer.read()
    if answer.status != 200:
        return "%d %s" % (answer.status, text[:300])
    return None if json.loads(text)["choices"][0]["message"]["content"] else "an answer without text"


def stream(client, model):
    answer = client.post({"model": model, "messages": [{"role": "user", "content": "say much"}], "stream": True})
    if answer.status != 200:
        return "%d %s" % (answer.status, answer.read()[:300])
    lines = [line.strip() for line in answer if line.strip()]
    finished = any(b'"finish_reason":"stop"' in line for line in lines)
    return None if lines and lines[-1] == b"data: [DONE]" and finished else "ended with %r" % lines[-1:]


def work(call, model, counter, failures, pause):
    client = Client()
    first = True
    while first or not stopping.is_set():
        at = time.monotonic()
        try:
            problem = call(client, model)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            problem = repr(error)
        took = time.monotonic() - at
        if problem:
            client.close()
        with lock:
            result[counter] += 1
            if counter == "unary":
                result["slowest"] = max(result["slowest"], took)
            if problem:
                result[failures].append("after %.3f s: %s" % (took, problem))
        if first:
            begun.release()
            first = False
        stopping.wait(pause)
    client.close()


parts = [(unary, settings["unary"], "unary", "failed"), (stream, settings["streams"], "streams", "cut")]
threads = [
    threading.Thread(target=work, args=(call, part["model"], counter, failures, part.get("pause", 0)))
    for call, part, counter, failures in parts
    for _ in range(part["workers"])
]
for thread in threads:
    thread.start()
# Streams are long: they have begun when the unary calls have answers.
for _ in range(settings["unary"]["workers"]):
    begun.acquire()
print("begun", flush=True)
sys.stdin.read()
stopping.set()
for thread in threads:
    thread.join()
print(json.dumps(result), flush=True)
