"""What the images are built from, without an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docker import build_images
from tests.docker.build_images import apt_sources, base_image

if TYPE_CHECKING:
    from pathlib import Path

NEW = "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: bookworm\nComponents: main\n"
OLD = "deb http://mirror.invalid/debian bookworm main\n"


def test_packages_come_from_whichever_file_of_apt_names_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMMANDBUS_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no source of Debian packages"):
        apt_sources(tmp_path)
    old, new = tmp_path / "sources.list", tmp_path / "sources.list.d" / "debian.sources"
    old.write_text(OLD)
    assert apt_sources(tmp_path) == old
    new.parent.mkdir()
    new.write_text(NEW)
    assert apt_sources(tmp_path) == new
    new.write_text("# moved\n")
    assert apt_sources(tmp_path) == old


@pytest.mark.parametrize("changed", ["PACKAGES", "OPTIONS", "SUITE"])
def test_a_changed_recipe_is_another_base_image(changed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sources, certificates = tmp_path / "sources.list", tmp_path / "certificates"
    sources.write_text(OLD)
    certificates.write_text("one")
    monkeypatch.setattr(build_images, "CERTIFICATES", certificates)
    before = base_image(sources)
    assert base_image(sources) == before
    monkeypatch.setattr(build_images, changed, (*getattr(build_images, changed), "more"))
    after = base_image(sources)
    sources.write_text(NEW)
    other_sources = base_image(sources)
    certificates.write_text("two")
    assert len({before, after, other_sources, base_image(sources)}) == 4
