"""The first exchange with a broker, spoken here: it says at once what the client would not say at all.

The client tries again whatever a broker answers; it loses an answer when the connection closes right behind it, so that
a wrong password looks like a broker that is away; and it waits for ever for a TLS handshake (all seen with 3.0.12). So
whoever opens a log first greets its brokers, until one lets him in or a deadline has passed.

Source: the Kafka protocol guide, https://kafka.apache.org/protocol (frames, Metadata, SaslHandshake, SaslAuthenticate),
and RFC 8446 for when a broker that wants a certificate can say so: after the handshake, which to us was complete.
"""

import socket
import ssl
import struct
import time
from collections.abc import Sequence
from typing import Final, Self

from headrace.errors import LogUnavailable, Misconfigured
from headrace.kafka_client import sasl_mechanism
from headrace.kafka_security import KafkaSecurity, variable

METADATA: Final = (3, 1)
SASL_HANDSHAKE: Final = (17, 1)
SASL_AUTHENTICATE: Final = (36, 0)
"""Requests and the oldest of their versions that do: number, version."""
ILLEGAL_STATE: Final = 34
answer_bytes_max = 2**24
"""What claims to be larger is no broker's answer."""
try_s_max = 5.0
"""How long one broker may take for one exchange."""
pause_s = 0.2


def greet(servers: Sequence[str], secured: KafkaSecurity, tls: ssl.SSLContext | None, deadline_s: float) -> None:
    """Return once one of `servers` (each HOST:PORT), and one of the brokers that it names, have let us in.

    Raises:
        Misconfigured: none did, and one said why not: TLS, a certificate, a password.
        LogUnavailable: none answered within `deadline_s`.
    """
    server, brokers = _greet_any(servers, secured, tls, deadline_s)
    if server not in brokers:  # clients go on with the addresses by which brokers name themselves
        try:
            _greet_any(brokers, secured, tls, deadline_s)
        except (Misconfigured, LogUnavailable) as error:
            raise type(error)(f"{error}; {server} names that address as its cluster's") from None


def _greet_any(
    servers: Sequence[str], secured: KafkaSecurity, tls: ssl.SSLContext | None, deadline_s: float
) -> tuple[str, list[str]]:
    """Return who let us in, and whom it names."""
    deadline = time.monotonic() + deadline_s
    while True:
        refusal, silence = None, "it names no broker"
        for server in servers:
            try:
                return server, _greet(server, secured, tls, min(try_s_max, deadline_s))
            except Misconfigured as error:
                refusal = error
            except OSError as error:
                silence = f"{server}: {error}"
        if refusal is not None:
            raise refusal
        if time.monotonic() + pause_s > deadline:
            raise LogUnavailable(f"Kafka does not answer within {deadline_s:g} s ({silence})")
        time.sleep(pause_s)


def _greet(server: str, secured: KafkaSecurity, tls: ssl.SSLContext | None, timeout_s: float) -> list[str]:
    """Be let in by one broker; return which it names. Raises Misconfigured if it refuses, OSError if it is silent."""
    try:
        with _Line(server, tls, timeout_s) as line:
            if secured.with_password:
                _log_in(line, secured)
            return line.brokers()
    except ssl.SSLCertVerificationError as error:
        raise Misconfigured(
            f"Kafka at {server} shows a certificate that we do not trust ({error.verify_message}): "
            f"wanted one for that name by a CA of {secured.said('ssl_cafile')}"
        ) from None
    except ConnectionRefusedError:
        raise
    except (ssl.SSLError, ConnectionError) as error:
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            raise Misconfigured(
                f"Kafka at {server} ends the TLS handshake ({error.reason}): wanted a client that it trusts, "
                f"found {secured.said('ssl_certfile')}"
            ) from None
        _explain(server, secured, tls, timeout_s)
        raise


def _log_in(line: "_Line", secured: KafkaSecurity) -> None:
    """Name ourselves and prove it."""
    error, offered = line.mechanisms(str(secured.sasl_mechanism))
    if error == ILLEGAL_STATE:
        wanted = "SSL" if secured.with_tls else "PLAINTEXT"
        raise Misconfigured(
            f"Kafka at {line.server} asks for no password: wanted {variable('security_protocol')}={wanted}, "
            f"found {secured.security_protocol}"
        )
    if error:
        raise Misconfigured(
            f"Kafka at {line.server} does not take {secured.said('sasl_mechanism')}: wanted one of {offered}"
        )
    mechanism = sasl_mechanism(secured)
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        answer = line.ask(SASL_AUTHENTICATE, struct.pack(">i", len(token)) + token)
        (code,), (said, rest) = struct.unpack_from(">h", answer), _text(answer[2:])
        try:
            if not code:
                mechanism.receive(rest[4:])
                continue
        except ValueError as error:  # the broker's own proof is wrong
            said = str(error)
        raise Misconfigured(
            f"Kafka at {line.server} refuses {secured.said('sasl_username')} with its password by "
            f"{secured.sasl_mechanism}: {said or f'error {code}'}"
        )


def _explain(server: str, secured: KafkaSecurity, tls: ssl.SSLContext | None, timeout_s: float) -> None:
    """Raise Misconfigured if a broker that hung up wants to be spoken to in another way."""
    found = f"found {secured.security_protocol}"
    wanted = f"wanted {variable('security_protocol')}"
    offered: str | None
    if tls is None and _speaks_tls(server, timeout_s):
        raise Misconfigured(f"Kafka at {server} speaks TLS: {wanted}=SSL or SASL_SSL, {found}")
    if tls is not None and (offered := _mechanisms(server, None, timeout_s)) is not None:
        raise Misconfigured(f"Kafka at {server} does not speak TLS: {wanted}=PLAINTEXT or SASL_PLAINTEXT, {found}")
    if not secured.with_password and (offered := _mechanisms(server, tls, timeout_s)):
        protocol = "SASL_SSL" if tls else "SASL_PLAINTEXT"
        raise Misconfigured(f"Kafka at {server} asks for a password (by {offered}): {wanted}={protocol}, {found}")


def _speaks_tls(server: str, timeout_s: float) -> bool:
    try:
        with _Line(server, ssl.create_default_context(), timeout_s):
            return True
    except ssl.SSLCertVerificationError:
        return True
    except OSError:
        return False


def _mechanisms(server: str, tls: ssl.SSLContext | None, timeout_s: float) -> str | None:
    """Return by which mechanisms a broker asks for passwords, "" if for none, None if it does not answer."""
    try:
        with _Line(server, tls, timeout_s) as line:
            return line.mechanisms("PLAIN")[1]
    except OSError:
        return None


class _Line:
    """One connection: requests and their answers, in turn. Raises OSError when there is no answer."""

    def __init__(self, server: str, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        self.server = server
        host, _, port = server.rpartition(":")
        host = host.strip("[]")  # of an IPv6 address
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

    def ask(self, request: tuple[int, int], body: bytes) -> bytes:
        """Return the answer's body."""
        number, version = request
        message = struct.pack(">hhih", number, version, number, -1) + body  # the number again, to know the answer by
        self._socket.sendall(struct.pack(">i", len(message)) + message)
        (size,) = struct.unpack(">i", self._read(4))
        if not 4 <= size <= answer_bytes_max:
            raise ConnectionError("what answers there is no Kafka broker")
        answer = self._read(size)
        if answer[:4] != struct.pack(">i", number):
            raise ConnectionError("what answers there is no Kafka broker")
        return answer[4:]

    def brokers(self) -> list[str]:
        """Return the addresses of the cluster's brokers."""
        answer = self.ask(METADATA, struct.pack(">i", 0))  # and about no topic
        (count,), rest = struct.unpack_from(">i", answer), answer[4:]
        named = []
        for _ in range(count):
            host, rest = _text(rest[4:])
            (port,) = struct.unpack_from(">i", rest)
            _, rest = _text(rest[4:])  # its rack
            named.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return named

    def mechanisms(self, wanted: str) -> tuple[int, str]:
        """Ask to name ourselves by a mechanism; return the error, and the mechanisms that the broker takes."""
        answer = self.ask(SASL_HANDSHAKE, struct.pack(">h", len(wanted)) + wanted.encode())
        (error, count), rest = struct.unpack_from(">hi", answer), answer[6:]
        offered = []
        for _ in range(count):
            text, rest = _text(rest)
            offered.append(text)
        return error, ", ".join(offered)

    def _read(self, size: int) -> bytes:
        read = b""
        while len(read) < size:
            if not (part := self._socket.recv(size - len(read))):
                raise ConnectionError("the connection was closed without an answer")
            read += part
        return read


def _text(data: bytes) -> tuple[str, bytes]:
    """Return a text at the beginning of an answer ("" for a null), and what comes after it."""
    (size,) = struct.unpack_from(">h", data)
    end = 2 + max(0, size)
    return data[2:end].decode(errors="replace"), data[end:]
