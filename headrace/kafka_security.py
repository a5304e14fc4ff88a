"""How to reach brokers that want TLS or a password: the `HEADRACE_KAFKA_*` settings.

They are environment variables alone, for URLs and options are shown by screens and process lists, and files are copied.
What can be wrong with them without asking a broker is found here; what only a broker knows, `headrace.kafka_greeting`
asks it.
"""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from headrace.errors import Misconfigured

PREFIX: Final = "HEADRACE_KAFKA_"
PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class Secret(str):
    """Text that is never shown: what prints, formats or logs it gets stars, what joins, encodes or compares it gets it.

    >>> password = Secret("tiger")
    >>> print(password, [password], f"{password}", password.encode())
    *** [***] *** b'tiger'
    """

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


@dataclass(frozen=True)
class KafkaSecurity:
    """Settings by their variables' names, less the prefix; None where a variable is not set, or empty.

    Raises:
        Misconfigured: one is unknown, missing, or would have no effect.
    """

    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: Secret | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_key_password: Secret | None = None

    def __post_init__(self) -> None:
        if self.security_protocol not in PROTOCOLS:
            raise Misconfigured(f"{self.said('security_protocol')}: wanted one of {', '.join(PROTOCOLS)}")
        for kind, used, protocols in (
            ("sasl_", self.with_password, "SASL_PLAINTEXT or SASL_SSL"),
            ("ssl_", self.with_tls, "SSL or SASL_SSL"),
        ):
            mine = [name for name in names().values() if name.startswith(kind)]
            if not used and (idle := [name for name in mine if getattr(self, name) is not None]):
                raise Misconfigured(
                    f"{self.said('security_protocol')}: wanted {protocols} with {variable(idle[0])}, which is set"
                )
            if used and kind == "sasl_" and (missing := [name for name in mine if getattr(self, name) is None]):
                raise Misconfigured(f"{self.said('security_protocol')}: wanted also {variable(missing[0])}, found none")
        if self.with_password and self.sasl_mechanism not in MECHANISMS:
            raise Misconfigured(f"{self.said('sasl_mechanism')}: wanted one of {', '.join(MECHANISMS)}")
        if self.ssl_certfile is None and (self.ssl_keyfile is not None or self.ssl_key_password is not None):
            raise Misconfigured(f"{variable('ssl_certfile')}: wanted our certificate beside its key, found none")

    @property
    def with_password(self) -> bool:
        """Whether we name ourselves by a user name and a password."""
        return self.security_protocol.startswith("SASL_")

    @property
    def with_tls(self) -> bool:
        """Whether connections are encrypted and brokers show certificates."""
        return self.security_protocol.endswith("SSL")

    def said(self, name: str) -> str:
        """Return a setting as a person would write it: `VARIABLE=value`, or that it is not set."""
        value = getattr(self, name)
        return f"{variable(name)} (not set)" if value is None else f"{variable(name)}={value}"

    def tls(self) -> ssl.SSLContext | None:
        """Return what TLS connections are made with: brokers' certificates and names are checked, TLS is 1.2 or later.

        Raises:
            Misconfigured: a file is not there, or does not hold what it should.
        """
        if not self.with_tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ssl_cafile is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(self.ssl_cafile)
            except OSError as error:
                raise Misconfigured(f"{self.said('ssl_cafile')}: wanted CA certificates (PEM), found {error}") from None
        if self.ssl_certfile is not None:
            try:
                # without an answer OpenSSL would ask the terminal for the key's password
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, lambda: self.ssl_key_password or "")
            except OSError as error:
                key = self.said("ssl_keyfile" if self.ssl_keyfile else "ssl_certfile")
                password = variable("ssl_key_password") + (" is set" if self.ssl_key_password else " is not set")
                raise Misconfigured(
                    f"{self.said('ssl_certfile')}: wanted our certificate and, in {key}, its key (PEM; {password}), "
                    f"found {error}"
                ) from None
        return context


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


def names() -> dict[str, str]:
    """Return the settings' names by their environment variables."""
    return {variable(field.name): field.name for field in fields(KafkaSecurity)}


def security(environ: Mapping[str, str] = os.environ) -> KafkaSecurity:
    """Return what the `HEADRACE_KAFKA_*` variables say; plain text if none is set.

    Raises:
        Misconfigured: as `KafkaSecurity`.

    >>> security({"HEADRACE_KAFKA_SECURITY_PROTOCOL": "SSL", "HEADRACE_KAFKA_SSL_CAFILE": "ca.pem"}).ssl_cafile
    'ca.pem'
    """
    known = names()
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            raise Misconfigured(f"environment variable {name}: wanted one of {', '.join(known)}")
    given: dict[str, Any] = {name: environ[at] for at, name in known.items() if environ.get(at)}
    return KafkaSecurity(**{name: Secret(text) if name.endswith("password") else text for name, text in given.items()})
