"""Where a database may be, and the way to it for the duration of a block."""

from __future__ import annotations

import io
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from commandbus.embedded import EmbeddedServer
from commandbus.errors import InvalidArgumentError
from commandbus.testing.cluster import forwarded
from commandbus.testing.service import KubernetesTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@runtime_checkable
class Container(Protocol):
    """A started container of PostgreSQL, such as testcontainers' ``PostgresContainer``."""

    def get_connection_url(self) -> str:
        """Return its URL; a driver's name in the scheme, as SQLAlchemy writes it, does no harm."""


class Output(Protocol):
    """A text stream: an open file, ``sys.stdout``, ``io.StringIO``."""

    def write(self, text: str, /) -> object:
        """Take some text."""


Target: TypeAlias = "str | EmbeddedServer | Path | Container | KubernetesTarget"
"""A database URL; an embedded server or its data directory, which is started; a started container; a service of a
Kubernetes cluster."""


@contextmanager
def reach(target: Target, output: Output | None = None) -> Iterator[str]:
    """Give the URL of the target's database for the duration of the block.

    Args:
        target: a `Target`. An embedded server is started when it does not run, and goes on running; its database
            is "postgres". A port that is forwarded from a cluster is closed with the block.
        output: is told, line by line, what is being waited for.

    Raises:
        InvalidArgumentError: it is none of these, or *output* is no text stream.
        EmbeddedServerError: the embedded server cannot be started.
        ClusterError: there is no way to the service; see its subclasses.
    """
    say = teller(output)
    match target:
        case str():
            yield target
        case Path():
            yield EmbeddedServer(target).start().url()
        case EmbeddedServer():
            yield target.start().url()
        case KubernetesTarget():
            with forwarded(target, say) as url:
                yield url
        case Container():
            yield _without_driver(target.get_connection_url())
        case _:
            raise InvalidArgumentError(
                "target",
                "must be a database URL, an EmbeddedServer or its directory (Path), a container"
                f" with get_connection_url(), or a KubernetesTarget; it is of type {type(target).__name__}",
            )


def teller(output: Output | None) -> Callable[[str], None]:
    """Return what writes one line to a stream, whole, so that several threads may share it.

    Raises:
        InvalidArgumentError: it is no text stream.
    """
    is_binary = isinstance(output, io.RawIOBase | io.BufferedIOBase)
    if output is not None and (is_binary or not callable(getattr(output, "write", None))):
        raise InvalidArgumentError(
            "output", f"must be a text stream, such as sys.stdout; it is of type {type(output).__name__}"
        )

    def say(line: str) -> None:
        if output is not None:
            output.write(f"{line}\n")

    return say


def _without_driver(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"
