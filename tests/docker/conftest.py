"""Fixtures of the container tests: an engine, the images, and the stack of docker-compose.yml."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docker.build_images import build_images
from tests.docker.engine import compose_program, engine
from tests.docker.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def images() -> Iterator[None]:
    """An engine that has all images."""
    with pytest.MonkeyPatch.context() as monkeypatch, engine(monkeypatch):
        monkeypatch.setenv("DOCKER_BUILDKIT", "0")  # what Debian's engine can do without more parts
        build_images()
        yield


@pytest.fixture(scope="session")
def compose(images: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:  # noqa: ARG001  (they must be there)
    """The words that start Docker Compose."""
    return compose_program(tmp_path_factory.mktemp("compose"))


@pytest.fixture(scope="module")
def stack(compose: tuple[str, ...]) -> Iterator[Stack]:
    """The whole stack, up, with the console, and a worker that executes the handlers in ``tests/docker/app``."""
    made = Stack(compose)
    try:
        made.up("worker", "console")
        yield made
    finally:
        made.down()


@pytest.fixture
def plain_stack(compose: tuple[str, ...]) -> Iterator[Stack]:
    """The stack without a worker, not up yet."""
    made = Stack(compose)
    try:
        yield made
    finally:
        made.down()
