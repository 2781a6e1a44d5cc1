"""The images that the container tests need, built without pulling any: `python -m tests.docker.build_images`.

They stand in for the usual ones: Debian's Python, PostgreSQL with PGMQ as an extension, Flyway. What they are built
from comes from the package registries that this machine is set up for.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pgmq

from tests.flyway import tool
from tests.support import missing

ROOT = Path(__file__).parents[2]
RECIPES = Path(__file__).parent / "images"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SUITE = ("bookworm",)
PACKAGES = ("ca-certificates", "openjdk-17-jre-headless", "postgresql-15", "python3", "python3-venv")
OPTIONS = (
    "--variant=minbase",
    "--aptopt=Acquire::Languages none",
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)

_NAMES_PACKAGES = re.compile(r"^(?:Types: *)?deb\b", re.MULTILINE)

POSTGRES_IMAGE = "commandbus-test/postgres"
FLYWAY_IMAGE = "commandbus-test/flyway"
COMMANDBUS_IMAGE = "commandbus-test/commandbus"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program that must succeed; return what it printed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def build_images() -> None:
    """Build all with the Docker engine that the environment names; one that is there already is kept or redone."""
    for program in ("mmdebstrap", "mvn"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed")
    with TemporaryDirectory(prefix="cb-images-") as name:
        directory = Path(name)
        base = build_base(directory)
        build_postgres(base, directory / "postgres")
        build_flyway(base, directory / "flyway")
        build(COMMANDBUS_IMAGE, base, ROOT, ROOT / "Dockerfile")


def apt_sources(directory: Path = Path("/etc/apt")) -> Path:
    """Return the file that says where this machine has Debian's packages from."""
    candidates = (directory / "sources.list.d" / "debian.sources", directory / "sources.list")
    found = [path for path in candidates if path.is_file() and _NAMES_PACKAGES.search(path.read_text())]
    return found[0] if found else missing(f"no source of Debian packages in {directory}")


def base_image(sources: Path) -> str:
    """Return the name of the base image, another one for each recipe: what is there under it need not be made anew."""
    recipe = repr((SUITE, PACKAGES, OPTIONS)).encode() + sources.read_bytes() + CERTIFICATES.read_bytes()
    return f"commandbus-test/base:{hashlib.sha256(recipe).hexdigest()[:12]}"


def build_base(directory: Path) -> str:
    """Make a root file system of Debian packages, unless there is one from before; return the image's name."""
    sources = apt_sources()
    image = base_image(sources)
    with suppress(RuntimeError):
        run("docker", "image", "inspect", image)
        return image
    tar = directory / "base.tar"
    # The machine's certificates: it may reach the registries in its own way.
    certificates = f'--customize-hook=cat {CERTIFICATES} > "$1"{CERTIFICATES}'
    run("mmdebstrap", *OPTIONS, f"--include={','.join(PACKAGES)}", certificates, *SUITE, tar, sources)
    run("docker", "import", "--change", f"ENV PIP_CERT={CERTIFICATES}", tar, image)
    return image


def build_postgres(base: str, context: Path) -> None:
    """Make PGMQ's SQL, as the package brings it, an extension."""
    text = (Path(pgmq.__path__[0]) / "sql" / "pgmq.sql").read_text()
    version = (Path(pgmq.__path__[0]) / "sql" / "pgmq.sql.version").read_text().strip()
    shutil.copytree(RECIPES, context)
    (context / f"pgmq--{version}.sql").write_text(text)
    (context / "pgmq.control").write_text(
        f"comment = 'A lightweight message queue'\ndefault_version = '{version}'\n"
        "schema = 'pgmq'\nrelocatable = false\nsuperuser = false\n"
    )
    build(POSTGRES_IMAGE, base, context, context / "postgres.Dockerfile")


def build_flyway(base: str, context: Path) -> None:
    """Take the command line that the tests compare with: one version, fetched and verified in one place."""
    tool.fetch()
    (found,) = tool.directory().glob("flyway-*")
    shutil.copytree(found, context / "flyway")
    (context / "flyway/flyway").chmod(0o755)  # it is not in the archive
    build(FLYWAY_IMAGE, base, context, RECIPES / "flyway.Dockerfile")


def build(image: str, base: str, context: Path, recipe: Path) -> None:
    """Build one image on our base. The machine's own network is the one that is known to reach the registries."""
    argument = f"BASE_IMAGE={base}"
    run("docker", "build", "--network=host", "--build-arg", argument, "--tag", image, "--file", recipe, context)


if __name__ == "__main__":
    build_images()
    sys.stdout.write(f"{POSTGRES_IMAGE}\n{FLYWAY_IMAGE}\n{COMMANDBUS_IMAGE}\n")
