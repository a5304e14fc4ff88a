"""TLS and passwords for connections to brokers: the `HEADRACE_KAFKA_*` settings.

These settings are read only from environment variables, because URLs and options are visible on screens and in process
lists, and files get copied. This module checks what can be checked without a broker; `headrace.log.kafka.probe` checks
the rest.
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
    """A string that prints, formats and logs as asterisks; joining, encoding and comparing use its value.

    >>> password = Secret("tiger")
    >>> print(password, [password], f"{password}", password.encode())
    *** [***] *** b'tiger'
    """

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


@dataclass(frozen=True)
class KafkaSecurity:
    """The settings, named as their variables without the prefix; None if a variable is unset or empty.

    Raises:
        Misconfigured: a value is unknown, a setting is missing, or a setting would have no effect.
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
            raise Misconfigured(f"{self.described('security_protocol')}: wanted one of {', '.join(PROTOCOLS)}")
        for kind, used, protocols in (
            ("sasl_", self.uses_sasl, "SASL_PLAINTEXT or SASL_SSL"),
            ("ssl_", self.uses_tls, "SSL or SASL_SSL"),
        ):
            mine = [name for name in settings_by_variable().values() if name.startswith(kind)]
            if not used and (idle := [name for name in mine if getattr(self, name) is not None]):
                raise Misconfigured(
                    f"{self.described('security_protocol')}: wanted {protocols} with {variable(idle[0])}, which is set"
                )
            if used and kind == "sasl_" and (missing := [name for name in mine if getattr(self, name) is None]):
                raise Misconfigured(
                    f"{self.described('security_protocol')}: wanted also {variable(missing[0])}, found none"
                )
        if self.uses_sasl and self.sasl_mechanism not in MECHANISMS:
            raise Misconfigured(f"{self.described('sasl_mechanism')}: wanted one of {', '.join(MECHANISMS)}")
        if self.ssl_certfile is None and (self.ssl_keyfile is not None or self.ssl_key_password is not None):
            raise Misconfigured(
                f"{variable('ssl_certfile')}: wanted the certificate that belongs to the key, found none"
            )

    @property
    def uses_sasl(self) -> bool:
        """Whether the client authenticates with a user name and a password (SASL)."""
        return self.security_protocol.startswith("SASL_")

    @property
    def uses_tls(self) -> bool:
        """Whether connections use TLS."""
        return self.security_protocol.endswith("SSL")

    def described(self, name: str) -> str:
        """Return a setting for a message: `VARIABLE=value`, or `VARIABLE (not set)`."""
        value = getattr(self, name)
        return f"{variable(name)} (not set)" if value is None else f"{variable(name)}={value}"

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context: it verifies brokers' certificates and host names and requires TLS 1.2 or later.

        Raises:
            Misconfigured: a file is missing or has the wrong content.
        """
        if not self.uses_tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ssl_cafile is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(self.ssl_cafile)
            except OSError as error:
                raise Misconfigured(
                    f"{self.described('ssl_cafile')}: wanted CA certificates (PEM), found {error}"
                ) from None
        if self.ssl_certfile is not None:
            try:
                # without a callback OpenSSL would prompt on the terminal for the key's password
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, lambda: self.ssl_key_password or "")
            except OSError as error:
                key = self.described("ssl_keyfile" if self.ssl_keyfile else "ssl_certfile")
                password = variable("ssl_key_password") + (" is set" if self.ssl_key_password else " is not set")
                raise Misconfigured(
                    f"{self.described('ssl_certfile')}: wanted a certificate and, in {key}, its key (PEM; {password}), "
                    f"found {error}"
                ) from None
        return context


def variable(name: str) -> str:
    """Return the name of a setting's environment variable."""
    return PREFIX + name.upper()


def settings_by_variable() -> dict[str, str]:
    """Return the names of all settings by environment variable."""
    return {variable(field.name): field.name for field in fields(KafkaSecurity)}


def read_security(environ: Mapping[str, str] = os.environ) -> KafkaSecurity:
    """Read the `HEADRACE_KAFKA_*` variables; without any, connections are plain text.

    Raises:
        Misconfigured: a variable is unknown, or as for `KafkaSecurity`.

    >>> read_security({"HEADRACE_KAFKA_SECURITY_PROTOCOL": "SSL", "HEADRACE_KAFKA_SSL_CAFILE": "ca.pem"}).ssl_cafile
    'ca.pem'
    """
    known = settings_by_variable()
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            raise Misconfigured(f"environment variable {name}: wanted one of {', '.join(known)}")
    given: dict[str, Any] = {name: environ[at] for at, name in known.items() if environ.get(at)}
    return KafkaSecurity(**{name: Secret(text) if name.endswith("password") else text for name, text in given.items()})
