"""Kafka's security settings without a broker: parsing, secrets, and servers that do not answer or answer nonsense."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import LogUnavailable, Misconfigured
from headrace.log.kafka.client import Client, common_options, translated_errors
from headrace.log.kafka.log import KafkaLog
from headrace.log.kafka.security import PREFIX, KafkaSecurity, Secret, read_security, settings_by_variable

TLS = KafkaSecurity("SSL")
SASL_SETTINGS = {
    "SECURITY_PROTOCOL": "SASL_SSL",
    "SASL_MECHANISM": "PLAIN",
    "SASL_USERNAME": "shop",
    "SASL_PASSWORD": "tiger",
}


def read(**given: str) -> KafkaSecurity:
    return read_security({PREFIX + name: text for name, text in given.items()})


def test_settings_are_read_from_the_environment_and_empty_ones_are_unset() -> None:
    assert read() == KafkaSecurity() == read(SECURITY_PROTOCOL="", SASL_PASSWORD="", SSL_CAFILE="")
    found = read(
        **SASL_SETTINGS, SSL_CAFILE="ca.pem", SSL_CERTFILE="c.pem", SSL_KEYFILE="c.key", SSL_KEY_PASSWORD="lion"
    )
    assert found == KafkaSecurity(
        "SASL_SSL", "PLAIN", "shop", Secret("tiger"), "ca.pem", "c.pem", "c.key", Secret("lion")
    )


def test_secrets_are_not_shown_but_the_client_receives_them() -> None:
    found = replace(read(**SASL_SETTINGS, SSL_CERTFILE="c.pem", SSL_KEY_PASSWORD="lion"))
    client = Client(common_options(["localhost:1"], found, None, 1.0), "", 1.0, {})
    for shown in (repr(found), f"{found}", f"{found.sasl_password}", repr(client), str(client.options)):
        assert "tiger" not in shown
        assert "lion" not in shown
    assert "\0".join(["shop", client.options["sasl_plain_password"]]) == "shop\0tiger"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SECURITY_PROTOCOL": "TLS"}, "PROTOCOL=TLS: wanted one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ({"PASSWORD": "tiger"}, "HEADRACE_KAFKA_PASSWORD: wanted one of HEADRACE_KAFKA_SECURITY_PROTOCOL, "),
        (
            {**SASL_SETTINGS, "SASL_MECHANISM": "GSSAPI"},
            "MECHANISM=GSSAPI: wanted one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512",
        ),
        ({**SASL_SETTINGS, "SASL_PASSWORD": ""}, "wanted also HEADRACE_KAFKA_SASL_PASSWORD, found none"),
        ({**SASL_SETTINGS, "SASL_USERNAME": ""}, "wanted also HEADRACE_KAFKA_SASL_USERNAME, found none"),
        ({**SASL_SETTINGS, "SASL_MECHANISM": ""}, "wanted also HEADRACE_KAFKA_SASL_MECHANISM, found none"),
        (
            {**SASL_SETTINGS, "SECURITY_PROTOCOL": ""},
            "PROTOCOL=PLAINTEXT: wanted SASL_PLAINTEXT or SASL_SSL with .*SASL_",
        ),
        ({**SASL_SETTINGS, "SECURITY_PROTOCOL": "SSL"}, "PROTOCOL=SSL: wanted SASL_PLAINTEXT or SASL_SSL with .*SASL_"),
        ({"SSL_CAFILE": "ca.pem"}, "PROTOCOL=PLAINTEXT: wanted SSL or SASL_SSL with HEADRACE_KAFKA_SSL_CAFILE"),
        (
            {"SECURITY_PROTOCOL": "SSL", "SSL_KEYFILE": "c.key"},
            "CERTFILE: wanted the certificate that belongs to the key",
        ),
    ],
)
def test_invalid_settings_are_rejected_and_secrets_are_not_shown(given: dict[str, str], message: str) -> None:
    with pytest.raises(Misconfigured, match=message) as caught:
        read(**given)
    assert "tiger" not in str(caught.value)


def test_invalid_certificate_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("none.pem", "empty.pem", "."):
        path = str(tmp_path / name)
        with pytest.raises(Misconfigured, match=f"CAFILE={path}: wanted CA certificates"):
            replace(TLS, ssl_cafile=path).tls()
        with pytest.raises(Misconfigured, match=f"CERTFILE={path}: wanted a certificate"):
            replace(TLS, ssl_certfile=path).tls()


def test_every_setting_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
    assert [name for name in settings_by_variable() if f"`{name.removeprefix('HEADRACE_KAFKA')}`" not in page] == []


def answering(answer: bytes | None) -> Iterator[str]:
    """Yield the address of a server that sends this answer and closes each connection; None: it sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as open_connections:
        server.settimeout(0.05)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                with suppress(TimeoutError):
                    connection = open_connections.enter_context(server.accept()[0])
                    if answer is not None:
                        connection.recv(65_536)
                        connection.sendall(answer)
                        connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        done.set()
        thread.join()


@pytest.fixture
def silent() -> Iterator[str]:
    yield from answering(None)


@pytest.fixture(params=[b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\4\0\0\0\7"], ids=["end", "web", "other"])
def nonsense(request: pytest.FixtureRequest) -> Iterator[str]:
    yield from answering(request.param)


@pytest.mark.parametrize("secured", [KafkaSecurity(), TLS], ids=["plain", "tls"])
def test_a_server_that_does_not_answer_fails_at_the_deadline(silent: str, secured: KafkaSecurity) -> None:
    started = time.monotonic()
    with pytest.raises(LogUnavailable, match=f"within 1 s .{silent}: .*timed out"):
        KafkaLog(silent, security=secured, deadline_s=1.0)
    assert time.monotonic() - started < 20.0


def test_a_client_waits_for_a_silent_broker_at_most_until_the_deadline(silent: str) -> None:
    client = Client(common_options([silent], TLS, TLS.tls(), 2.0), "", 2.0, {})
    started = time.monotonic()
    with pytest.raises(LogUnavailable, match="bootstrap"), translated_errors("Kafka"), closing(client.consumer()):
        pass
    assert time.monotonic() - started < 20.0


@pytest.mark.parametrize("secured", [KafkaSecurity(), TLS], ids=["plain", "tls"])
def test_an_invalid_answer_is_retried_because_the_broker_may_be_starting(nonsense: str, secured: KafkaSecurity) -> None:
    with pytest.raises(LogUnavailable, match=nonsense):
        KafkaLog(nonsense, security=secured, deadline_s=0.5)
