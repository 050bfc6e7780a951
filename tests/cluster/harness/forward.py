"""Connections from here into another network namespace. Those are entered by thread, and a socket stays where it was made."""

import ctypes
import os
import queue
import socket
import threading
import time

CLONE_NEWNET = 0x40000000
CONNECT_SECONDS = 10
CHUNK_BYTES = 65536

libc = ctypes.CDLL(None, use_errno=True)


class Forwarder:
    """Listens on a free port of 127.0.0.1; each connection becomes one to (host, port) inside of `network`, a file below
    /proc/PID/ns. Threads carry the bytes of each until it ends."""

    def __init__(self, network, host, port):
        self._network = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def wait_until_taken(self, seconds=CONNECT_SECONDS):
        """Until somebody inside takes connections."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._connected().close()
                return
            except OSError as error:
                assert time.monotonic() < deadline, f"nothing takes connections at {self._target}: {error}"
                time.sleep(0.02)

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.close(self._network)

    def _connected(self):
        """A socket that is connected inside."""
        made = queue.SimpleQueue()

        def make():
            entered = libc.setns(self._network, CLONE_NEWNET) == 0
            made.put(socket.socket() if entered else OSError(ctypes.get_errno(), "cannot enter the network namespace"))

        threading.Thread(target=make).start()
        inside = made.get()
        if isinstance(inside, OSError):
            raise inside
        try:
            inside.settimeout(CONNECT_SECONDS)
            inside.connect(self._target)
            inside.settimeout(None)
            return inside
        except OSError:
            inside.close()
            raise

    def _accept(self):
        while True:
            try:
                outside, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(outside,), daemon=True).start()

    def _serve(self, outside):
        try:
            inside = self._connected()
        except OSError:
            # An end without a byte is what a client sees of a refused connection.
            outside.close()
            return
        for end in (outside, inside):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=_carry, args=(inside, outside), daemon=True)
        back.start()
        _carry(outside, inside)
        back.join()
        outside.close()
        inside.close()


def _carry(source, sink):
    """Until the source ends; then says so to the sink."""
    try:
        while piece := source.recv(CHUNK_BYTES):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # One side is gone, so the other goes too.
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
