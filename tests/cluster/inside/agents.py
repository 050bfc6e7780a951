"""Many agents that spend one key's money at once, each with a new connection for each call. Standard library only.

Argument: JSON {url, key, model, agents, calls, seconds, until}. Prints how often each answer came: {"200": n, "429
budget_exhausted": n, ...}. An agent ends after `calls` calls or `seconds`, or once it is refused with the code `until`."""

import collections
import http.client
import json
import sys
import threading
import time
import urllib.parse

# Who calls a pod that was killed may wait for an answer that nobody sends.
CALL_SECONDS = 10

settings = json.loads(sys.argv[1])
address = urllib.parse.urlsplit(settings["url"])
lock = threading.Lock()
deadline = time.monotonic() + settings["seconds"]
answers = collections.Counter()
headers = {"Authorization": "Bearer " + settings["key"], "Content-Type": "application/json"}
body = json.dumps({"model": settings["model"], "max_tokens": 16, "messages": [{"role": "user", "content": "spend"}]})


def call():
    connection = http.client.HTTPConnection(address.hostname, address.port or 80, timeout=CALL_SECONDS)
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__, 0.2
    finally:
        connection.close()
    if answer.status == 200:
        return "200", 0
    return "%d %s" % (answer.status, answer.headers.get("x-tollgate-error")), 0.05


def agent():
    for _ in range(settings["calls"]):
        what, pause = call()
        with lock:
            answers[what] += 1
        if what.endswith(settings["until"]) or time.monotonic() > deadline:
            return
        time.sleep(pause)


threads = [threading.Thread(target=agent) for _ in range(settings["agents"])]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(answers))
