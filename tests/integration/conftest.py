"""Fixtures of the integration tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.granted import role_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from commandbus.migrate import RoleNames
    from tests.support import Server


@pytest.fixture
def names(server: Server) -> Iterator[RoleNames]:
    """Names of four roles that the test makes. Ask for it before a database: roles must outlive their rights."""
    with role_names(server) as found:
        yield found
