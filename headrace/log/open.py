"""Opens a log by its URL, which names the implementation."""

from headrace.errors import Misconfigured
from headrace.log.protocol import Log


def open_log(url: str) -> Log:
    """Open the log that a URL names: `sqlite:PATH` or `kafka:HOST:PORT[,HOST:PORT]`.

    Raises:
        Misconfigured: the URL has an unknown form.
        LogUnavailable: the log does not answer.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        from headrace.log.sqlite import SqliteLog

        return SqliteLog(rest)
    if scheme == "kafka" and rest:
        from headrace.log.kafka.log import KafkaLog

        return KafkaLog(rest)
    raise Misconfigured(f"log {url!r}: wanted sqlite:PATH or kafka:HOST:PORT[,HOST:PORT]")
