"""Opens a log by its URL, which names the implementation."""

from headrace.errors import Misconfigured
from headrace.log.protocol import Log


def open_log(url: str, *, existing: bool = False, read_only: bool = False) -> Log:
    """Open the log that a URL names: `sqlite:PATH` or `kafka:HOST:PORT[,HOST:PORT]`.

    Args:
        existing: a file must be there; otherwise it is created.
        read_only: a file must be there, and nothing can be written to it. On Kafka this changes nothing: opening and
            reading a log writes nothing.

    Raises:
        Misconfigured: the URL has an unknown form, or names a file that is missing or no log.
        LogUnavailable: the log does not answer.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        from headrace.log.sqlite import SqliteLog

        return SqliteLog(rest, existing=existing, read_only=read_only)
    if scheme == "kafka" and rest:
        from headrace.log.kafka.log import KafkaLog

        return KafkaLog(rest)
    raise Misconfigured(f"log {url!r}: wanted sqlite:PATH or kafka:HOST:PORT[,HOST:PORT]")
