"""The integration tests on a server in a container: `pytest --server=container`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from commandbus.testing import apply_core_migrations, verify_migrations
from tests.docker.build_images import POSTGRES_IMAGE, ROOT, run

pytestmark = pytest.mark.usefixtures("images")

CHOSEN = ("tests/integration/test_support.py", "tests/integration/test_calls.py", "tests/integration/test_batches.py")


def test_the_integration_tests_run_on_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMANDBUS_TEST_IMAGE", POSTGRES_IMAGE)
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")  # one more image, which is not here
    before = run("docker", "ps", "--all", "--quiet")
    done = subprocess.run(
        (sys.executable, "-m", "pytest", "--server=container", "-q", *CHOSEN),
        cwd=ROOT,
        env=os.environ | {"COMMANDBUS_REQUIRE_ALL": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
    assert run("docker", "ps", "--all", "--quiet") == before


def test_the_shared_library_migrates_a_started_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer(POSTGRES_IMAGE) as container:
        apply_core_migrations(container)
        assert "commandbus.command" in verify_migrations(container)
