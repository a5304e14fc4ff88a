"""Kafka with TLS and passwords, on a real broker: every way in keeps the contract, every wrong key is told why."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import UserScramCredentialUpsertion
from typer.testing import CliRunner

from consumers.online import MakeShop
from headrace.blobs import Blobs
from headrace.checks import check_covered, check_folds
from headrace.config import OnlineSettings
from headrace.errors import Fenced, LogUnavailable, Misconfigured
from headrace.kafka_log import KafkaLog
from headrace.kafka_security import PREFIX, security
from headrace.log import Log, Outgoing, Partition, open_log
from headrace.loop import Loop, Turn
from headrace.process import retried
from headrace.topics import EVENTS, MODELS, partitions_of
from operators.child import Children
from operators.cli import app
from tests.brokers import own_broker

pytestmark = pytest.mark.usefixtures("elsewhere")
E0, JOURNAL, SCORES = Partition("events", 0), Partition("journal", 0), Partition("scores", 0)
PLAIN_SECRET, SCRAM_SECRET, KEY_SECRET, WRONG = "plain-tiger", "scram-tiger", "key-tiger", "wrong-tiger"
LISTENERS = {
    "TLS": "SSL", "MUTUAL": "SSL", "ELSEWHERE": "SSL", "PASSWORD": "SASL_PLAINTEXT", "BOTH": "SASL_SSL",
}  # fmt: skip
quick_s = 40.0
"""A wrong key must be told in less, and not by the log's deadline; on an idle machine it takes under half a second, of
which the broker waits most."""

PROPERTIES = """
ssl.keystore.type=PEM
ssl.keystore.location={pem}/broker.both
ssl.truststore.type=PEM
ssl.truststore.location={pem}/ca.pem
listener.name.mutual.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
"""
MODULES = """
listener.name.{name}.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_shop="{secret}";
listener.name.{name}.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


def certify(pem: Path, name: str, issuer: str | None = None, password: str | None = None) -> None:
    """Write NAME.key and NAME.pem, for 127.0.0.1 and no other name; without an issuer it is a CA's."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-keyout", f"{pem / name}.key", "-out", f"{pem / name}.pem"]
    command += ["-passout", f"pass:{password}"] if password else ["-nodes"]
    if issuer:
        command += ["-CA", f"{pem / issuer}.pem", "-CAkey", f"{pem / issuer}.key"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:false"]
    subprocess.run(command, check=True, capture_output=True)


@dataclass(frozen=True)
class Secured:
    """A broker with a listener of each kind."""

    ports: Mapping[str, int]
    pem: Path

    def url(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}?prefix={listener.lower()}-"

    def ca(self, name: str = "ca") -> dict[str, str]:
        return {"SSL_CAFILE": f"{self.pem / name}.pem"}

    def certificate(self, name: str, key: str | None = None) -> dict[str, str]:
        return {"SSL_CERTFILE": f"{self.pem / name}.pem", "SSL_KEYFILE": f"{self.pem / (key or name)}.key"}


def user(mechanism: str, password: str) -> dict[str, str]:
    return {"SASL_MECHANISM": mechanism, "SASL_USERNAME": "shop", "SASL_PASSWORD": password}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Return a broker of this module's own."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")
    folder = tmp_path_factory.mktemp("secured")
    certify(folder, "ca")
    certify(folder, "other-ca")
    certify(folder, "broker", "ca")
    certify(folder, "client", "ca")
    certify(folder, "locked", "ca", KEY_SECRET)
    certify(folder, "stranger", "other-ca")
    (folder / "broker.both").write_text((folder / "broker.key").read_text() + (folder / "broker.pem").read_text())
    with ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name in LISTENERS}
        for one in sockets.values():
            one.bind(("127.0.0.1", 0))
        ports = {name: one.getsockname()[1] for name, one in sockets.items()}
    ours = "PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}"
    theirs = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
    protocols = ",".join(f"{name}:{protocol}" for name, protocol in LISTENERS.items())
    lines = [
        f"listeners={ours},{theirs}",
        f"advertised.listeners={ours},{theirs.replace('ELSEWHERE://127.0.0.1', 'ELSEWHERE://localhost')}",
        f"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{protocols}",
        PROPERTIES.replace("{pem}", str(folder)),
        *(MODULES.format(name=name, secret=PLAIN_SECRET) for name in ("password", "both")),
    ]
    with own_broker(folder, "\n".join(lines)) as running:
        with closing(KafkaAdminClient(bootstrap_servers=running.bootstrap)) as admin:
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion("shop", "SCRAM-SHA-512", SCRAM_SECRET.encode())]
            )
        plain = int(running.bootstrap.rpartition(":")[2])
        yield Secured({"PLAINTEXT": plain, **ports}, folder)


def opened(secured: Secured, listener: str, given: Mapping[str, str], deadline_s: float = 120.0) -> KafkaLog:
    found = security({PREFIX + name: text for name, text in given.items()})
    return KafkaLog(secured.url(listener), secured=found, deadline_s=deadline_s)


WAYS: dict[str, tuple[str, Callable[[Secured], dict[str, str]]]] = {
    "tls": ("TLS", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca()}),
    "mutual tls": ("MUTUAL", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("client")}),
    "a locked key": (
        "MUTUAL",
        lambda s: {
            "SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("locked"), "SSL_KEY_PASSWORD": KEY_SECRET,
        },
    ),
    "scram in the clear": (
        "PASSWORD", lambda s: {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", **user("SCRAM-SHA-512", SCRAM_SECRET)},
    ),
    "plain in tls": ("BOTH", lambda s: {"SECURITY_PROTOCOL": "SASL_SSL", **s.ca(), **user("PLAIN", PLAIN_SECRET)}),
    "scram in tls": (
        "BOTH", lambda s: {"SECURITY_PROTOCOL": "SASL_SSL", **s.ca(), **user("SCRAM-SHA-512", SCRAM_SECRET)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", ["a locked key", "scram in the clear"])
def test_other_ways_lead_in_too(secured: Secured, way: str) -> None:
    listener, given = WAYS[way]
    with closing(opened(secured, listener, given(secured))) as log:
        log.create()


@pytest.mark.parametrize("way", ["tls", "mutual tls", "plain in tls", "scram in tls"])
def test_each_way_in_keeps_the_contract(secured: Secured, way: str) -> None:
    listener, given = WAYS[way]
    with closing(opened(secured, listener, given(secured))) as log:
        log.create()
        start = log.end(E0)
        with closing(log.appender()) as appender:
            for number in range(300):
                appender.append(Outgoing("events", b"key", b"%d" % number * 1_000, 0))
        assert log.end(E0) - start == 300
        with closing(log.reader({E0: start})) as reader:
            read: list[bytes | None] = []
            deadline = time.monotonic() + 20.0
            while len(read) < 300 and time.monotonic() < deadline:
                read += [record.value for _, records in reader.read(1_000, 0.1) for record in records]
        assert read == [b"%d" % number * 1_000 for number in range(300)]
        with closing(log.writer(way.split()[0])) as older:
            older.commit([Outgoing("journal", b"key", b"one", 0), Outgoing("scores", b"key", b"one", 0)], {E0: 7})
            older.settle()
            with closing(log.writer(way.split()[0])) as newer:
                older.commit([Outgoing("journal", b"key", b"lost", 0)], {E0: 8})
                with pytest.raises(Fenced):
                    older.settle()
                newer.commit([Outgoing("journal", b"key", b"two", 0)], {})
                newer.settle()
        assert log.committed(way.split()[0]) == {E0: 7}
        assert [last.value for last in map(log.last, (JOURNAL, SCORES)) if last] == [b"two", b"one"]


def test_readers_see_what_was_committed_alone(secured: Secured) -> None:
    listener, given = WAYS["scram in tls"]
    with closing(opened(secured, listener, given(secured))) as log:
        log.create()
        start = log.end(SCORES)
        with closing(
            KafkaProducer(bootstrap_servers=f"127.0.0.1:{secured.ports['PLAINTEXT']}", transactional_id="open")
        ) as other:
            other.init_transactions()
            other.begin_transaction()
            other.send("both-scores", b"open", partition=0).get(timeout=10)
            assert log.end(SCORES) == start
            other.commit_transaction()
        deadline = time.monotonic() + 20.0
        while (last := log.last(SCORES)) is None or last.value != b"open":
            assert time.monotonic() < deadline


def test_the_shipped_commands_need_their_environment_alone(
    secured: Secured, children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, given = WAYS["scram in tls"]
    monkeypatch.setenv("HEADRACE_LOG", f"kafka:127.0.0.1:{secured.ports[listener]}?prefix=shop-")
    monkeypatch.setenv("HEADRACE_PRODUCER__METRICS_PORT", "0")
    for name, text in given(secured).items():
        monkeypatch.setenv(PREFIX + name, text)
    producer = children.start("simulate", "simulate", "--events", "400", up=False)
    assert producer.wait(120.0) == 0, producer.text
    assert "400 events published" in producer.text
    with closing(open_log(os.environ["HEADRACE_LOG"])) as log:
        learned_and_followed(log, tmp_path)
    shown = CliRunner().invoke(app, ["status"])
    assert shown.exit_code == 0, shown.output
    assert "online" in shown.output
    helped = CliRunner().invoke(app, ["online", "--help"])
    for text in (producer.text, shown.output, helped.output, repr(security()), f"{security()}"):
        assert SCRAM_SECRET not in text


def learned_and_followed(log: Log, folder: Path) -> None:
    """Learn from all events, and check that a follower comes to the same state."""
    make, places = MakeShop(OnlineSettings()), partitions_of(EVENTS)
    loop = Loop(log, Blobs(folder), "online", make=make, sources=places, sides=partitions_of(MODELS))
    turns: list[Turn] = []
    loop.on_turn = turns.append
    loop.run(lambda: sum(turn.learned for turn in turns) == 400)
    loop.close()
    check_covered(log, "online", places)
    check_folds(log, Blobs(folder), "online", make=make, inputs=[*places, *partitions_of(MODELS)])


REFUSALS: dict[str, tuple[str, Callable[[Secured], dict[str, str]], str]] = {
    "a wrong password": (
        "BOTH", lambda s: {"SECURITY_PROTOCOL": "SASL_SSL", **s.ca(), **user("PLAIN", WRONG)},
        "refuses .*USERNAME=shop .*PLAIN: .*Invalid username or password",
    ),
    "a wrong password by scram": (
        "BOTH", lambda s: {"SECURITY_PROTOCOL": "SASL_SSL", **s.ca(), **user("SCRAM-SHA-512", WRONG)},
        "refuses .*USERNAME=shop .*SCRAM-SHA-512: .*invalid credentials",
    ),
    "a mechanism that the broker does not take": (
        "PASSWORD", lambda s: {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", **user("SCRAM-SHA-256", WRONG)},
        "does not take .*MECHANISM=SCRAM-SHA-256: wanted one of PLAIN, SCRAM-SHA-512",
    ),
    "no password where one is asked for": (
        "PASSWORD", lambda s: {}, "asks for a password .*wanted .*=SASL_PLAINTEXT, found PLAINTEXT",
    ),
    "a password where none is asked for": (
        "TLS", lambda s: {"SECURITY_PROTOCOL": "SASL_SSL", **s.ca(), **user("PLAIN", WRONG)},
        "asks for no password: wanted .*=SSL, found SASL_SSL",
    ),
    "an unknown CA": (
        "TLS", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca("other-ca")},
        "do not trust .*issuer.*: wanted .*CAFILE=.*other-ca.pem",
    ),
    "the system's CAs": (
        "TLS", lambda s: {"SECURITY_PROTOCOL": "SSL"}, r"do not trust .*: wanted .*CAFILE \(not set\)",
    ),
    "a broker of another name": (
        "ELSEWHERE", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca()}, "localhost.* do not trust .*names that address",
    ),
    "plain text on a port of TLS": ("TLS", lambda s: {}, "speaks TLS: wanted .*=SSL or SASL_SSL, found PLAINTEXT"),
    "TLS on a port of plain text": (
        "PLAINTEXT", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca()}, "does not speak TLS: wanted .*, found SSL",
    ),
    "no certificate of ours": (
        "MUTUAL", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca()}, r"CERTIFICATE_REQUIRED.*CERTFILE \(not set\)",
    ),
    "a certificate by a stranger": (
        "MUTUAL", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("stranger")},
        "CERTIFICATE_UNKNOWN.*CERTFILE=.*stranger.pem",
    ),
    "another's key": (
        "MUTUAL", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("client", "stranger")},
        "CERTFILE=.*client.pem: wanted .*KEYFILE=.*stranger.key.*found .*mismatch",
    ),
    "a locked key without its password": (
        "MUTUAL", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("locked")},
        "KEY_PASSWORD is not set",
    ),
    "a locked key with a wrong password": (
        "MUTUAL",
        lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("locked"), "SSL_KEY_PASSWORD": WRONG},
        "KEY_PASSWORD is set",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSALS)
def test_a_wrong_key_is_told_at_once_and_why(secured: Secured, wrong: str) -> None:
    listener, given, said = REFUSALS[wrong]
    began = time.monotonic()
    with pytest.raises(Misconfigured, match=said) as caught:
        opened(secured, listener, given(secured))
    assert time.monotonic() - began < quick_s
    assert WRONG not in str(caught.value)


def test_a_command_with_a_wrong_password_ends_with_2_and_one_line(
    secured: Secured, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, given, _ = REFUSALS["a wrong password"]
    monkeypatch.setenv("HEADRACE_LOG", f"kafka:{secured.url(listener)}")
    for name, text in given(secured).items():
        monkeypatch.setenv(PREFIX + name, text)
    status = children.start("status", "status", up=False)
    assert status.wait(60.0) == 2
    (line,) = status.text.splitlines()
    assert "refuses HEADRACE_KAFKA_SASL_USERNAME=shop" in line
    assert WRONG not in line


def test_a_wrong_password_is_not_tried_again(secured: Secured) -> None:
    listener, given, _ = REFUSALS["a wrong password"]
    began = time.monotonic()
    with pytest.raises(Misconfigured):
        retried(lambda: opened(secured, listener, given(secured)).close(), threading.Event(), deadline_s=60.0)
    assert time.monotonic() - began < quick_s


def test_a_password_may_fail_later_and_is_told_when_the_log_is_opened_again(secured: Secured) -> None:
    given = {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", **user("SCRAM-SHA-512", "first-tiger"), "SASL_USERNAME": "guest"}

    def keep(password: str) -> None:
        with closing(KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{secured.ports['PLAINTEXT']}")) as admin:
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion("guest", "SCRAM-SHA-512", password.encode())]
            )

    keep("first-tiger")
    with closing(opened(secured, "PASSWORD", given, deadline_s=10.0)) as log:
        keep("second-tiger")
        with pytest.raises(LogUnavailable), closing(log.reader({E0: 0})):
            pass
    with pytest.raises(Misconfigured, match="USERNAME=guest"):
        retried(lambda: opened(secured, "PASSWORD", given, deadline_s=10.0).close(), threading.Event(), deadline_s=60.0)
