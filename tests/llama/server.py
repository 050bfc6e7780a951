"""Serves the tiny model with llama.cpp on a free port of 127.0.0.1, in the foreground, until its standard input ends.

Run as `python server.py chat|embedding`. The first line on standard output that starts with `listening ` holds the
URL. A process of its own, so that a crash or a leak of the server is not one of the tests'.
"""

import os
import pathlib
import sys

import xllamacpp

import tiny_model
from ports import free_port

CONTEXT_TOKENS = 1024
PARALLEL = 2


def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = pathlib.Path(base) / "tollgate" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def serve(kind):
    """Starts the server; it lives as long as the returned object."""
    model = cache_folder() / f"tiny-{tiny_model.SEED}.gguf"
    tiny_model.write(str(model))
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames = ["127.0.0.1"]
    params.port = free_port()
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = PARALLEL
    params.cpuparams.n_threads = 1
    if kind == "embedding":
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return xllamacpp.Server(params)


def main():
    server = serve(sys.argv[1])
    print(f"\nlistening {server.listening_address}", flush=True)
    # The end of standard input is the end of whoever started this, also when it was killed.
    while sys.stdin.read(1):
        pass
    # The server's threads need no farewell: nothing is kept.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
