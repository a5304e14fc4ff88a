"""Checks that a broker accepts a connection before the client connects, and reports why if it does not.

The client retries whatever a broker answers. It loses an answer if the connection closes directly afterwards, so that a
wrong password looks like an unreachable broker, and it waits forever for a TLS handshake (all seen with 3.0.12). So
opening a log first probes its brokers, until one accepts the connection or a deadline has passed.

Source: the Kafka protocol guide, https://kafka.apache.org/protocol (frames, Metadata, SaslHandshake, SaslAuthenticate),
and RFC 8446: a broker reports a missing client certificate only after the handshake is complete for the client.
"""

import socket
import ssl
import struct
import time
from collections.abc import Sequence
from typing import Final, Self

from headrace.errors import LogUnavailable, Misconfigured
from headrace.log.kafka.client import sasl_mechanism
from headrace.log.kafka.security import KafkaSecurity, variable

METADATA: Final = (3, 1)
SASL_HANDSHAKE: Final = (17, 1)
SASL_AUTHENTICATE: Final = (36, 0)
"""Requests (API key, version), each in the oldest version that suffices."""
ILLEGAL_STATE: Final = 34
response_bytes_max = 2**24
"""A larger size means that the answer is not from a broker."""
attempt_timeout_s = 5.0
"""How long one attempt at one broker may take."""
pause_s = 0.2


def probe_brokers(
    servers: Sequence[str], security: KafkaSecurity, tls: ssl.SSLContext | None, deadline_s: float
) -> None:
    """Return once one of `servers` (each HOST:PORT) and one of the brokers that it advertises accept a connection.

    Raises:
        Misconfigured: none accepts, and one reports the reason: TLS, a certificate, a password.
        LogUnavailable: none answered within `deadline_s`.
    """
    server, brokers = _probe_any(servers, security, tls, deadline_s)
    if server not in brokers:  # clients continue with the addresses that the brokers advertise
        try:
            _probe_any(brokers, security, tls, deadline_s)
        except (Misconfigured, LogUnavailable) as error:
            raise type(error)(f"{error}; {server} advertises that address") from None


def _probe_any(
    servers: Sequence[str], security: KafkaSecurity, tls: ssl.SSLContext | None, deadline_s: float
) -> tuple[str, list[str]]:
    """Return the server that accepted, and the brokers that it advertises."""
    deadline = time.monotonic() + deadline_s
    while True:
        refused, no_answer = None, "it advertises no broker"
        for server in servers:
            try:
                return server, _probe_broker(server, security, tls, min(attempt_timeout_s, deadline_s))
            except Misconfigured as error:
                refused = error
            except OSError as error:
                no_answer = f"{server}: {error}"
        if refused is not None:
            raise refused
        if time.monotonic() + pause_s > deadline:
            raise LogUnavailable(f"Kafka does not answer within {deadline_s:g} s ({no_answer})")
        time.sleep(pause_s)


def _probe_broker(server: str, security: KafkaSecurity, tls: ssl.SSLContext | None, timeout_s: float) -> list[str]:
    """Return the brokers that one broker advertises. Raises Misconfigured if it refuses, OSError if it is silent."""
    try:
        with _Connection(server, tls, timeout_s) as connection:
            if security.uses_sasl:
                _authenticate(connection, security)
            return connection.brokers()
    except ssl.SSLCertVerificationError as error:
        raise Misconfigured(
            f"Kafka at {server} has a certificate that is not trusted ({error.verify_message}): "
            f"wanted one for that name, issued by a CA of {security.described('ssl_cafile')}"
        ) from None
    except ConnectionRefusedError:
        raise
    except (ssl.SSLError, ConnectionError) as error:
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            raise Misconfigured(
                f"Kafka at {server} ended the TLS handshake ({error.reason}): wanted a certificate that it trusts, "
                f"found {security.described('ssl_certfile')}"
            ) from None
        _diagnose_disconnect(server, security, tls, timeout_s)
        raise


def _authenticate(connection: "_Connection", security: KafkaSecurity) -> None:
    """Authenticate with SASL. Raises Misconfigured if the broker refuses."""
    error, offered = connection.mechanisms(str(security.sasl_mechanism))
    if error == ILLEGAL_STATE:
        wanted = "SSL" if security.uses_tls else "PLAINTEXT"
        raise Misconfigured(
            f"Kafka at {connection.server} asks for no password: wanted {variable('security_protocol')}={wanted}, "
            f"found {security.security_protocol}"
        )
    if error:
        raise Misconfigured(
            f"Kafka at {connection.server} does not support {security.described('sasl_mechanism')}: "
            f"wanted one of {offered}"
        )
    mechanism = sasl_mechanism(security)
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        response = connection.send(SASL_AUTHENTICATE, struct.pack(">i", len(token)) + token)
        (code,), (reason, rest) = struct.unpack_from(">h", response), _string(response[2:])
        try:
            if not code:
                mechanism.receive(rest[4:])
                continue
        except ValueError as error:  # the broker failed to authenticate itself
            reason = str(error)
        raise Misconfigured(
            f"Kafka at {connection.server} refuses {security.described('sasl_username')} with its password by "
            f"{security.sasl_mechanism}: {reason or f'error {code}'}"
        )


def _diagnose_disconnect(server: str, security: KafkaSecurity, tls: ssl.SSLContext | None, timeout_s: float) -> None:
    """Raise Misconfigured if a broker that closed the connection expects another security protocol."""
    found = f"found {security.security_protocol}"
    wanted = f"wanted {variable('security_protocol')}"
    offered: str | None
    if tls is None and _uses_tls(server, timeout_s):
        raise Misconfigured(f"Kafka at {server} speaks TLS: {wanted}=SSL or SASL_SSL, {found}")
    if tls is not None and (offered := _offered_mechanisms(server, None, timeout_s)) is not None:
        raise Misconfigured(f"Kafka at {server} does not speak TLS: {wanted}=PLAINTEXT or SASL_PLAINTEXT, {found}")
    if not security.uses_sasl and (offered := _offered_mechanisms(server, tls, timeout_s)):
        protocol = "SASL_SSL" if tls else "SASL_PLAINTEXT"
        raise Misconfigured(f"Kafka at {server} asks for a password (by {offered}): {wanted}={protocol}, {found}")


def _uses_tls(server: str, timeout_s: float) -> bool:
    try:
        with _Connection(server, ssl.create_default_context(), timeout_s):
            return True
    except ssl.SSLCertVerificationError:
        return True
    except OSError:
        return False


def _offered_mechanisms(server: str, tls: ssl.SSLContext | None, timeout_s: float) -> str | None:
    """Return the SASL mechanisms that a broker offers, "" if it uses no SASL, None if it does not answer."""
    try:
        with _Connection(server, tls, timeout_s) as connection:
            return connection.mechanisms("PLAIN")[1]
    except OSError:
        return None


class _Connection:
    """One connection: sends a request and returns its response. Raises OSError if there is no response."""

    def __init__(self, server: str, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        self.server = server
        host, _, port = server.rpartition(":")
        host = host.strip("[]")  # brackets of an IPv6 address
        self._socket = socket.create_connection((host, int(port)), timeout_s)
        if tls is not None:
            try:
                self._socket = tls.wrap_socket(self._socket, server_hostname=host.rstrip("."))
            except BaseException:
                self._socket.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, request: tuple[int, int], body: bytes) -> bytes:
        """Send a request and return the body of the response."""
        api_key, version = request
        frame = struct.pack(">hhih", api_key, version, api_key, -1) + body  # the API key again, as the correlation id
        self._socket.sendall(struct.pack(">i", len(frame)) + frame)
        (size,) = struct.unpack(">i", self._read(4))
        if not 4 <= size <= response_bytes_max:
            raise ConnectionError("the server that answers is not a Kafka broker")
        response = self._read(size)
        if response[:4] != struct.pack(">i", api_key):
            raise ConnectionError("the server that answers is not a Kafka broker")
        return response[4:]

    def brokers(self) -> list[str]:
        """Return the addresses of the cluster's brokers."""
        response = self.send(METADATA, struct.pack(">i", 0))  # an empty list of topics
        (count,), rest = struct.unpack_from(">i", response), response[4:]
        addresses = []
        for _ in range(count):
            host, rest = _string(rest[4:])
            (port,) = struct.unpack_from(">i", rest)
            _, rest = _string(rest[4:])  # its rack
            addresses.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return addresses

    def mechanisms(self, wanted: str) -> tuple[int, str]:
        """Send a SaslHandshake for a mechanism; return the error code and the mechanisms that the broker supports."""
        response = self.send(SASL_HANDSHAKE, struct.pack(">h", len(wanted)) + wanted.encode())
        (error, count), rest = struct.unpack_from(">hi", response), response[6:]
        offered = []
        for _ in range(count):
            text, rest = _string(rest)
            offered.append(text)
        return error, ", ".join(offered)

    def _read(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            if not (chunk := self._socket.recv(size - len(received))):
                raise ConnectionError("the connection was closed without an answer")
            received += chunk
        return received


def _string(data: bytes) -> tuple[str, bytes]:
    """Return the string at the start of a response ("" for null), and the remaining bytes."""
    (size,) = struct.unpack_from(">h", data)
    end = 2 + max(0, size)
    return data[2:end].decode(errors="replace"), data[end:]
