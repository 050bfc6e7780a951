"""Ports for servers that are told theirs."""

import itertools
import os
import socket

# Below the ports that Linux gives to connections and to who asks for any: nobody takes one of these by chance between
# the look at it and the server's start. Those of 10,000 to 29,999 are what tests in Rust take.
PORTS = range(30_000, 32_700)
# So many are tried by one process before those of the next.
OF_A_PROCESS = 100
_tried = itertools.count(os.getpid() % (len(PORTS) // OF_A_PROCESS) * OF_A_PROCESS)


def free_port(host="127.0.0.1"):
    """One on which nobody listens; this process gets no port twice before it has had all."""
    for _ in PORTS:
        port = PORTS[next(_tried) % len(PORTS)]
        if _is_free(host, port):
            return port
    raise RuntimeError(f"no port of {host} is free")


def _is_free(host, port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
