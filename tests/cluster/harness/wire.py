"""A wire to a server that can be held and cut while both ends live."""

import contextlib
import socket
import threading

PIECE = 64 << 10


class Wire:
    """Listens at `address` (host, port) and leads to `server`. What is held comes late, after `mend`, or never, after
    `sever`. Nobody is told of it, as where a network drops everything."""

    def __init__(self, server, address=("127.0.0.1", 0)):
        self._server = server
        self._changed = threading.Condition()
        # Whether the direction is held: what the server says, what it is told.
        self._held = {"answers": False, "requests": False}
        self._waiting = {"answers": 0, "requests": 0}
        self._severed = 0
        self._connections = []
        self._listener = socket.create_server(address)
        self.address = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def hold_answers(self):
        self._set(answers=True)

    def hold_requests(self):
        self._set(requests=True)

    def cut(self):
        self._set(answers=True, requests=True)

    def mend(self):
        """All passes again, first of all what was held."""
        self._set(answers=False, requests=False)

    def sever(self):
        """Ends all connections; what was held is lost. New ones pass."""
        with self._changed:
            self._severed += 1
            self._held.update(answers=False, requests=False)
            for connection in self._connections:
                _end(connection)
            self._connections.clear()
            self._changed.notify_all()

    def holds(self, direction):
        """Whether something of a direction waits now."""
        with self._changed:
            return self._waiting[direction] > 0

    def close(self):
        self._listener.close()
        self.sever()

    def _set(self, **held):
        with self._changed:
            self._held.update(held)
            self._changed.notify_all()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                # Closed.
                return
            try:
                server = socket.create_connection(self._server)
            except OSError:
                # Where nobody listens the client is told so, as without a wire.
                client.close()
                continue
            with self._changed:
                self._connections += [client, server]
                severed = self._severed
            for parts in [(client, server, "requests"), (server, client, "answers")]:
                threading.Thread(target=self._carry, args=(*parts, severed), daemon=True).start()

    def _carry(self, source, target, direction, severed):
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE):
                with self._changed:
                    self._waiting[direction] += 1
                    self._changed.wait_for(lambda: not self._held[direction] or self._severed != severed)
                    self._waiting[direction] -= 1
                    if self._severed != severed:
                        break
                target.sendall(piece)
        _end(target)


def _end(connection):
    # It may have ended by itself.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
