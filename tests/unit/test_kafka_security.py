"""How to reach a secured Kafka, without a broker: settings, secrets, and those who answer nothing or nonsense."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import LogUnavailable, Misconfigured
from headrace.kafka_client import Client, common_options, translated
from headrace.kafka_log import KafkaLog
from headrace.kafka_security import PREFIX, KafkaSecurity, Secret, names, security

TLS = KafkaSecurity("SSL")
SHOP = {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "PLAIN", "SASL_USERNAME": "shop", "SASL_PASSWORD": "tiger"}


def read(**given: str) -> KafkaSecurity:
    return security({PREFIX + name: text for name, text in given.items()})


def test_settings_come_from_the_environment_and_empty_ones_are_not_set() -> None:
    assert read() == KafkaSecurity() == read(SECURITY_PROTOCOL="", SASL_PASSWORD="", SSL_CAFILE="")
    found = read(**SHOP, SSL_CAFILE="ca.pem", SSL_CERTFILE="c.pem", SSL_KEYFILE="c.key", SSL_KEY_PASSWORD="lion")
    assert found == KafkaSecurity(
        "SASL_SSL", "PLAIN", "shop", Secret("tiger"), "ca.pem", "c.pem", "c.key", Secret("lion")
    )


def test_no_secret_is_shown_but_the_client_gets_it() -> None:
    found = replace(read(**SHOP, SSL_CERTFILE="c.pem", SSL_KEY_PASSWORD="lion"))
    client = Client(common_options(["localhost:1"], found, None, 1.0), "", 1.0)
    for shown in (repr(found), f"{found}", f"{found.sasl_password}", repr(client), str(client.options)):
        assert "tiger" not in shown
        assert "lion" not in shown
    assert "\0".join(["shop", client.options["sasl_plain_password"]]) == "shop\0tiger"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"SECURITY_PROTOCOL": "TLS"}, "PROTOCOL=TLS: wanted one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ({"PASSWORD": "tiger"}, "HEADRACE_KAFKA_PASSWORD: wanted one of HEADRACE_KAFKA_SECURITY_PROTOCOL, "),
        ({**SHOP, "SASL_MECHANISM": "GSSAPI"}, "MECHANISM=GSSAPI: wanted one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"),
        ({**SHOP, "SASL_PASSWORD": ""}, "wanted also HEADRACE_KAFKA_SASL_PASSWORD, found none"),
        ({**SHOP, "SASL_USERNAME": ""}, "wanted also HEADRACE_KAFKA_SASL_USERNAME, found none"),
        ({**SHOP, "SASL_MECHANISM": ""}, "wanted also HEADRACE_KAFKA_SASL_MECHANISM, found none"),
        ({**SHOP, "SECURITY_PROTOCOL": ""}, "PROTOCOL=PLAINTEXT: wanted SASL_PLAINTEXT or SASL_SSL with .*SASL_"),
        ({**SHOP, "SECURITY_PROTOCOL": "SSL"}, "PROTOCOL=SSL: wanted SASL_PLAINTEXT or SASL_SSL with .*SASL_"),
        ({"SSL_CAFILE": "ca.pem"}, "PROTOCOL=PLAINTEXT: wanted SSL or SASL_SSL with HEADRACE_KAFKA_SSL_CAFILE"),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_KEYFILE": "c.key"}, "CERTFILE: wanted our certificate beside its key"),
    ],
)
def test_settings_that_cannot_be_are_refused_without_their_secrets(given: dict[str, str], said: str) -> None:
    with pytest.raises(Misconfigured, match=said) as caught:
        read(**given)
    assert "tiger" not in str(caught.value)


def test_files_that_are_not_what_they_should_be_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("none.pem", "empty.pem", "."):
        path = str(tmp_path / name)
        with pytest.raises(Misconfigured, match=f"CAFILE={path}: wanted CA certificates"):
            replace(TLS, ssl_cafile=path).tls()
        with pytest.raises(Misconfigured, match=f"CERTFILE={path}: wanted our certificate"):
            replace(TLS, ssl_certfile=path).tls()


def test_every_setting_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
    assert [name for name in names() if f"`{name.removeprefix('HEADRACE_KAFKA')}`" not in page] == []


def answering(answer: bytes | None) -> Iterator[str]:
    """Give the address of a port where every connection gets this answer and ends; None: silence."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as held:
        server.settimeout(0.05)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                with suppress(TimeoutError):
                    connection = held.enter_context(server.accept()[0])
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
def test_silence_is_waited_for_until_the_deadline(silent: str, secured: KafkaSecurity) -> None:
    began = time.monotonic()
    with pytest.raises(LogUnavailable, match=f"within 1 s .{silent}: .*timed out"):
        KafkaLog(silent, secured=secured, deadline_s=1.0)
    assert time.monotonic() - began < 20.0


def test_a_broker_that_falls_silent_stops_no_client_for_longer_than_the_deadline(silent: str) -> None:
    client = Client(common_options([silent], TLS, TLS.tls(), 2.0), "", 2.0)
    began = time.monotonic()
    with pytest.raises(LogUnavailable, match="bootstrap"), translated("Kafka"), closing(client.consumer()):
        pass
    assert time.monotonic() - began < 20.0


@pytest.mark.parametrize("secured", [KafkaSecurity(), TLS], ids=["plain", "tls"])
def test_nonsense_may_come_from_a_broker_that_starts_so_it_is_asked_again(
    nonsense: str, secured: KafkaSecurity
) -> None:
    with pytest.raises(LogUnavailable, match=nonsense):
        KafkaLog(nonsense, secured=secured, deadline_s=0.5)
