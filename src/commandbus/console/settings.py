"""Settings of the console, from arguments and COMMANDBUS_CONSOLE_* environment variables."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from commandbus.settings import EnvironmentSettings

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,99}")
_LEAST_TOKEN = 16
_LEAST_SECRET = 32
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  (recognised here, not bound to)

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def _split(value: object) -> object:
    """Return the parts of a text with commas, as environment variables give lists."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _network(value: object) -> object:
    if isinstance(value, tuple | list):
        try:
            return tuple(ip_network(str(part)) for part in value)
        except ValueError:
            raise ValueError("must be IP addresses or networks, separated by commas") from None
    return value


_Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
_Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_network), BeforeValidator(_split)
]


class ConsoleSettings(EnvironmentSettings):
    """Where the console listens, and whom it lets in. Immutable; its repr shows no token.

    Each field can be set by an environment variable: COMMANDBUS_CONSOLE_ and its name in capitals. Arguments win.

    Attributes:
        host: the address to listen on; without authentication, only a loopback one.
        port: 1 to 65,535.
        viewer_token: lets people look; at least 16 characters.
        operator_token: lets people look and decide; at least 16 characters.
        user_header: where a reverse proxy says who is there, such as X-Remote-User.
        trusted_proxies: addresses or networks from which user_header is believed.
        operators: users of user_header who may decide; the others look.
        hosts: further names under which the console may be called, besides the loopback names and *host*.
        https: it is reached through HTTPS only: cookies are kept to that, and browsers are told so.
        secret_key: signs the session cookies, at least 32 characters; made at every start when None.
        session_hours: until somebody must log in again, 1 to 720.
        idle_minutes: without a request, after which they must before that, 5 to 43,200.
        threads: of the server, 4 to 256.
        max_streams: most live streams at once, each of which takes a thread; the others poll.
    """

    # An empty variable is a slip, perhaps of whatever should have made a token, and must not open the door.
    model_config = SettingsConfigDict(env_prefix="COMMANDBUS_CONSOLE_", env_ignore_empty=False)

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65_535)
    viewer_token: SecretStr | None = None
    operator_token: SecretStr | None = None
    user_header: str | None = None
    trusted_proxies: _Networks = ()
    operators: _Names = ()
    hosts: _Names = ()
    https: bool = False
    secret_key: SecretStr | None = None
    session_hours: int = Field(default=12, ge=1, le=720)
    idle_minutes: int = Field(default=120, ge=5, le=43_200)
    threads: int = Field(default=16, ge=4, le=256)
    max_streams: int = Field(default=8, ge=0, le=128)

    @property
    def has_tokens(self) -> bool:
        """Whether people log in with a token."""
        return self.viewer_token is not None or self.operator_token is not None

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked who they are."""
        return not self.has_tokens and self.user_header is None

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """The names that a request's Host may have, in small letters and without port."""
        own = frozenset() if self.host in _WILDCARDS else frozenset({self.host.lower()})
        return LOOPBACK_NAMES | own | {name.lower() for name in self.hosts}

    def trusts(self, address: str) -> bool:
        """Return whether a proxy at this address is believed."""
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self.trusted_proxies)

    @field_validator("host", "hosts")
    @classmethod
    def _check_hosts(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in (value,) if isinstance(value, str) else value:
            if not _HOST.fullmatch(name):
                raise ValueError("must be host names or IP addresses, without scheme, brackets or port")
        return value

    @field_validator("user_header")
    @classmethod
    def _check_header(cls, value: str | None) -> str | None:
        if value is not None and not _HEADER.fullmatch(value):
            raise ValueError("must be the name of a header: letters, digits and hyphens")
        return value

    @field_validator("viewer_token", "operator_token", "secret_key")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _LEAST_TOKEN:
            raise ValueError(f"must have at least {_LEAST_TOKEN} characters")
        return value

    @model_validator(mode="after")
    def _check_console(self) -> Self:
        if self.secret_key is not None and len(self.secret_key.get_secret_value()) < _LEAST_SECRET:
            raise ValueError(f"secret_key must have at least {_LEAST_SECRET} characters")
        if self.viewer_token is not None and self.viewer_token == self.operator_token:
            raise ValueError("viewer_token and operator_token must differ")
        if self.user_header is not None and not self.trusted_proxies:
            raise ValueError("user_header needs trusted_proxies: anybody could send the header")
        if self.is_open and not is_loopback(self.host):
            raise ValueError(
                "host must be a loopback address while nobody has to log in: set COMMANDBUS_CONSOLE_OPERATOR_TOKEN,"
                " _VIEWER_TOKEN or _USER_HEADER first"
            )
        if self.max_streams >= self.threads:
            raise ValueError("max_streams must be less than threads: each stream takes one")
        return self


def is_loopback(host: str) -> bool:
    """Return whether an address, or the name localhost, is reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
