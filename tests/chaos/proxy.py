"""A TCP proxy between clients and one broker, whose network a test can cut, slow down, or break in the middle."""

import contextlib
import select
import socket
import struct
import threading
import time
from typing import Final

chunk_bytes: Final = 16_384
accept_wait_s: Final = 0.1


class Proxy:
    """Forwards each connection to a broker. Its attributes take effect at once, on open connections too.

    Attributes:
        port: the port on loopback on which it listens.
        cut: refuse connections, and close those that are open.
        silent: take bytes and pass none on, in either direction: a half-open connection.
        delay_s: wait this long, in seconds, before each piece is passed on.
        bytes_per_s: pass on at most this many bytes per second and direction; 0 is no limit.
        reset_after: number of bytes of answers after which a connection is reset in their midst; 0 is never.
    """

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(accept_wait_s)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        self.heal()
        threading.Thread(target=self._accept, name=f"proxy {self.port}", daemon=True).start()

    def heal(self) -> None:
        """Pass everything on, without delay."""
        self._cut = self.silent = False
        self.delay_s = 0.0
        self.bytes_per_s = self.reset_after = 0

    @property
    def cut(self) -> bool:
        """Whether connections are refused."""
        return self._cut

    @cut.setter
    def cut(self, value: bool) -> None:
        self._cut = value
        if value:
            self._close_all()

    def _close_all(self) -> None:
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the listener and all connections."""
        self._closed = True
        self._listener.close()
        self._close_all()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:  # it was closed
                return
            if self._cut:
                _reset(client)
            else:
                threading.Thread(target=self._serve, args=(client,), name="proxied", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                broker = socket.create_connection(self._target, timeout=10)
            except OSError:
                return
            with broker:
                client.settimeout(10)
                with self._lock:
                    self._open |= {client, broker}
                try:
                    self._forward(client, broker)
                except OSError:  # either side has closed or reset the connection
                    pass
                finally:
                    with self._lock:
                        self._open -= {client, broker}

    def _forward(self, client: socket.socket, broker: socket.socket) -> None:
        answered = 0
        while not self._closed and not self._cut:
            for source in select.select([client, broker], [], [], accept_wait_s)[0]:
                data = source.recv(chunk_bytes)
                if not data:
                    return
                if self.silent:
                    continue
                self._pause(len(data))
                if source is client:
                    broker.sendall(data)
                    continue
                answered += len(data)
                if self.reset_after and answered >= self.reset_after:
                    client.sendall(data[: len(data) // 2])
                    _reset(client)
                    return
                client.sendall(data)

    def _pause(self, size: int) -> None:
        wait_s = self.delay_s + (size / self.bytes_per_s if self.bytes_per_s else 0.0)
        if wait_s:
            time.sleep(wait_s)


def _reset(connection: socket.socket) -> None:
    """Close a connection so that the other side gets ECONNRESET."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
