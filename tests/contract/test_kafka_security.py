"""Kafka with TLS and passwords, on a real broker: each method works, and each refusal is reported with its reason."""

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

from headrace.errors import Fenced, LogUnavailable, Misconfigured
from headrace.log.kafka.log import KafkaLog
from headrace.log.kafka.security import PREFIX, read_security
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.process import run_with_retries
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_covered, check_folds
from headrace.shard.loop import Loop
from headrace.shard.turn import Turn
from operators.child import Children
from operators.cli import app
from tests.brokers import own_broker
from tests.shards import ONLINE, online

pytestmark = pytest.mark.usefixtures("clean_environment")
E0, JOURNAL, SCORES = Partition("events", 0), Partition("journal", 0), Partition("scores", 0)
PLAIN_SECRET, SCRAM_SECRET, KEY_SECRET, WRONG = "plain-tiger", "scram-tiger", "key-tiger", "wrong-tiger"
LISTENERS = {
    "TLS": "SSL", "MUTUAL": "SSL", "OTHER_NAME": "SSL", "PASSWORD": "SASL_PLAINTEXT", "BOTH": "SASL_SSL",
}  # fmt: skip
report_s_max = 40.0
"""A refusal must be reported within this time, not at the log's deadline; an idle machine takes under half a second, of
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
    """Write NAME.key and NAME.pem: a certificate for 127.0.0.1 only, or a CA's if there is no issuer."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-keyout", f"{pem / name}.key", "-out", f"{pem / name}.pem"]
    command += ["-passout", f"pass:{password}"] if password else ["-nodes"]
    if issuer:
        command += ["-CA", f"{pem / issuer}.pem", "-CAkey", f"{pem / issuer}.key"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:false"]
    subprocess.run(command, check=True, capture_output=True)


@dataclass(frozen=True)
class Secured:
    """A broker with one listener per security protocol."""

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
    """Start a broker for this module."""
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
        f"advertised.listeners={ours},{theirs.replace('OTHER_NAME://127.0.0.1', 'OTHER_NAME://localhost')}",
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
    found = read_security({PREFIX + name: text for name, text in given.items()})
    return KafkaLog(secured.url(listener), security=found, deadline_s=deadline_s)


METHODS: dict[str, tuple[str, Callable[[Secured], dict[str, str]]]] = {
    "tls": ("TLS", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca()}),
    "mutual tls": ("MUTUAL", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("client")}),
    "an encrypted key": (
        "MUTUAL",
        lambda s: {
            "SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("locked"), "SSL_KEY_PASSWORD": KEY_SECRET,
        },
    ),
    "scram without tls": (
        "PASSWORD", lambda s: {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", **user("SCRAM-SHA-512", SCRAM_SECRET)},
    ),
    "plain over tls": ("BOTH", lambda s: {"SECURITY_PROTOCOL": "SASL_SSL", **s.ca(), **user("PLAIN", PLAIN_SECRET)}),
    "scram over tls": (
        "BOTH", lambda s: {"SECURITY_PROTOCOL": "SASL_SSL", **s.ca(), **user("SCRAM-SHA-512", SCRAM_SECRET)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", ["an encrypted key", "scram without tls"])
def test_other_methods_connect(secured: Secured, method: str) -> None:
    listener, given = METHODS[method]
    with closing(opened(secured, listener, given(secured))) as log:
        log.create()


@pytest.mark.parametrize("method", ["tls", "mutual tls", "plain over tls", "scram over tls"])
def test_each_method_fulfils_the_contract(secured: Secured, method: str) -> None:
    listener, given = METHODS[method]
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
        with closing(log.writer(method.split()[0])) as older:
            older.commit([Outgoing("journal", b"key", b"one", 0), Outgoing("scores", b"key", b"one", 0)], {E0: 7})
            older.settle()
            with closing(log.writer(method.split()[0])) as newer:
                older.commit([Outgoing("journal", b"key", b"lost", 0)], {E0: 8})
                with pytest.raises(Fenced):
                    older.settle()
                newer.commit([Outgoing("journal", b"key", b"two", 0)], {})
                newer.settle()
        assert log.committed(method.split()[0]) == {E0: 7}
        assert [last.value for last in map(log.last, (JOURNAL, SCORES)) if last] == [b"two", b"one"]


def test_readers_see_only_committed_records(secured: Secured) -> None:
    listener, given = METHODS["scram over tls"]
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


def test_the_commands_need_only_environment_variables(
    secured: Secured, children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, given = METHODS["scram over tls"]
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
    for text in (producer.text, shown.output, helped.output, repr(read_security()), f"{read_security()}"):
        assert SCRAM_SECRET not in text


def learned_and_followed(log: Log, folder: Path) -> None:
    """Learn from all events, and check that a follower comes to the same state."""
    make, shard = online(), ONLINE.shard
    loop = Loop(log, Blobs(folder), shard, make=make)
    turns: list[Turn] = []
    loop.on_turn = turns.append
    loop.run(lambda: sum(turn.learned for turn in turns) == 400)
    loop.close()
    check_covered(log, shard)
    check_folds(log, Blobs(folder), shard, make=make)


REFUSALS: dict[str, tuple[str, Callable[[Secured], dict[str, str]], str]] = {
    "a wrong password": (
        "BOTH", lambda s: {"SECURITY_PROTOCOL": "SASL_SSL", **s.ca(), **user("PLAIN", WRONG)},
        "refuses .*USERNAME=shop .*PLAIN: .*Invalid username or password",
    ),
    "a wrong password by scram": (
        "BOTH", lambda s: {"SECURITY_PROTOCOL": "SASL_SSL", **s.ca(), **user("SCRAM-SHA-512", WRONG)},
        "refuses .*USERNAME=shop .*SCRAM-SHA-512: .*invalid credentials",
    ),
    "a mechanism that the broker does not support": (
        "PASSWORD", lambda s: {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", **user("SCRAM-SHA-256", WRONG)},
        "does not support .*MECHANISM=SCRAM-SHA-256: wanted one of PLAIN, SCRAM-SHA-512",
    ),
    "no password where one is required": (
        "PASSWORD", lambda s: {}, "asks for a password .*wanted .*=SASL_PLAINTEXT, found PLAINTEXT",
    ),
    "a password where none is used": (
        "TLS", lambda s: {"SECURITY_PROTOCOL": "SASL_SSL", **s.ca(), **user("PLAIN", WRONG)},
        "asks for no password: wanted .*=SSL, found SASL_SSL",
    ),
    "an unknown CA": (
        "TLS", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca("other-ca")},
        "is not trusted .*issuer.*: wanted .*CAFILE=.*other-ca.pem",
    ),
    "the system's CAs": (
        "TLS", lambda s: {"SECURITY_PROTOCOL": "SSL"}, r"is not trusted .*: wanted .*CAFILE \(not set\)",
    ),
    "a certificate for another name": (
        "OTHER_NAME", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca()},
        "localhost.* is not trusted .*advertises that address",
    ),
    "plain text on a TLS port": ("TLS", lambda s: {}, "speaks TLS: wanted .*=SSL or SASL_SSL, found PLAINTEXT"),
    "TLS on a plain-text port": (
        "PLAINTEXT", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca()}, "does not speak TLS: wanted .*, found SSL",
    ),
    "no client certificate": (
        "MUTUAL", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca()}, r"CERTIFICATE_REQUIRED.*CERTFILE \(not set\)",
    ),
    "a client certificate by another CA": (
        "MUTUAL", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("stranger")},
        "CERTIFICATE_UNKNOWN.*CERTFILE=.*stranger.pem",
    ),
    "a key of another certificate": (
        "MUTUAL", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("client", "stranger")},
        "CERTFILE=.*client.pem: wanted .*KEYFILE=.*stranger.key.*found .*mismatch",
    ),
    "an encrypted key without its password": (
        "MUTUAL", lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("locked")},
        "KEY_PASSWORD is not set",
    ),
    "an encrypted key with a wrong password": (
        "MUTUAL",
        lambda s: {"SECURITY_PROTOCOL": "SSL", **s.ca(), **s.certificate("locked"), "SSL_KEY_PASSWORD": WRONG},
        "KEY_PASSWORD is set",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSALS)
def test_each_refusal_is_reported_at_once_with_its_reason(secured: Secured, wrong: str) -> None:
    listener, given, message = REFUSALS[wrong]
    started = time.monotonic()
    with pytest.raises(Misconfigured, match=message) as caught:
        opened(secured, listener, given(secured))
    assert time.monotonic() - started < report_s_max
    assert WRONG not in str(caught.value)


def test_a_command_with_a_wrong_password_exits_with_2_and_one_line(
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


def test_a_wrong_password_is_not_retried(secured: Secured) -> None:
    listener, given, _ = REFUSALS["a wrong password"]
    started = time.monotonic()
    with pytest.raises(Misconfigured):
        run_with_retries(lambda: opened(secured, listener, given(secured)).close(), threading.Event(), deadline_s=60.0)
    assert time.monotonic() - started < report_s_max


def test_a_password_that_becomes_wrong_is_reported_when_the_log_is_reopened(secured: Secured) -> None:
    given = {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", **user("SCRAM-SHA-512", "first-tiger"), "SASL_USERNAME": "guest"}

    def set_password(password: str) -> None:
        with closing(KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{secured.ports['PLAINTEXT']}")) as admin:
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion("guest", "SCRAM-SHA-512", password.encode())]
            )

    set_password("first-tiger")
    with closing(opened(secured, "PASSWORD", given, deadline_s=10.0)) as log:
        set_password("second-tiger")
        with pytest.raises(LogUnavailable), closing(log.reader({E0: 0})):
            pass
    with pytest.raises(Misconfigured, match="USERNAME=guest"):
        run_with_retries(
            lambda: opened(secured, "PASSWORD", given, deadline_s=10.0).close(), threading.Event(), deadline_s=60.0
        )
