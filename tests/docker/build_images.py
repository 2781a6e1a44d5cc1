"""The images that the container tests need, built without pulling any: `python -m tests.docker.build_images`.

They stand in for the usual ones: Debian's Python, PostgreSQL with PGMQ as an extension, Flyway. What they are built
from comes from the package registries that this machine is set up for.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pgmq

from tests.support import missing

ROOT = Path(__file__).parents[2]
RECIPES = Path(__file__).parent / "images"
SOURCES = "/etc/apt/sources.list.d/debian.sources"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGES = "ca-certificates,openjdk-17-jre-headless,postgresql-15,python3,python3-venv"
FLYWAY = "11.8.2"
FLYWAY_PARTS = ("flyway", "lib/", "conf/", "drivers/postgresql-")

BASE_IMAGE = "commandbus-test/base"
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
    """Build all four with the Docker engine that the environment names; one that is there already is kept or redone."""
    for program in ("mmdebstrap", "mvn"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed")
    with TemporaryDirectory(prefix="cb-images-") as name:
        directory = Path(name)
        build_base(directory)
        build_postgres(directory / "postgres")
        build_flyway(directory / "flyway")
        build_commandbus()


def build_base(directory: Path) -> None:
    """Make a root file system of Debian packages, unless there is one from before."""
    with suppress(RuntimeError):
        run("docker", "image", "inspect", BASE_IMAGE)
        return
    tar = directory / "base.tar"
    # The machine's certificates: it may reach the registries in its own way.
    certificates = f'cat {CERTIFICATES} > "$1"{CERTIFICATES}'
    run(
        "mmdebstrap",
        "--variant=minbase",
        f"--include={PACKAGES}",
        "--aptopt=Acquire::Languages none",
        "--dpkgopt=force-unsafe-io",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f"--customize-hook={certificates}",
        "bookworm",
        tar,
        SOURCES,
    )
    variables = f"PIP_CERT={CERTIFICATES}"
    run("docker", "import", "--change", f"ENV {variables}", tar, BASE_IMAGE)


def build_postgres(context: Path) -> None:
    """Make PGMQ's SQL, as the package brings it, an extension."""
    text = (Path(pgmq.__path__[0]) / "sql" / "pgmq.sql").read_text()
    version = (Path(pgmq.__path__[0]) / "sql" / "pgmq.sql.version").read_text().strip()
    shutil.copytree(RECIPES, context)
    (context / f"pgmq--{version}.sql").write_text(text)
    (context / "pgmq.control").write_text(
        f"comment = 'A lightweight message queue'\ndefault_version = '{version}'\n"
        "schema = 'pgmq'\nrelocatable = false\nsuperuser = false\n"
    )
    build(POSTGRES_IMAGE, context, context / "postgres.Dockerfile")


def build_flyway(context: Path) -> None:
    """Unpack of Flyway's archive what PostgreSQL needs."""
    artifact = f"org.flywaydb:flyway-commandline:{FLYWAY}:tar.gz"
    copy = ("dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={context}")
    run("mvn", "--batch-mode", "--quiet", *copy)
    (archive,) = context.iterdir()
    top = f"flyway-{FLYWAY}/"
    with tarfile.open(archive) as tar:
        members = [m for m in tar.getmembers() if m.name.removeprefix(top).startswith(FLYWAY_PARTS)]
        tar.extractall(context, members, filter="data")
    (context / top).rename(context / "flyway")
    (context / "flyway/flyway").chmod(0o755)  # it is not in the archive
    build(FLYWAY_IMAGE, context, RECIPES / "flyway.Dockerfile")


def build_commandbus() -> None:
    """Build the project's own Dockerfile."""
    build(COMMANDBUS_IMAGE, ROOT, ROOT / "Dockerfile")


def build(image: str, context: Path, recipe: Path) -> None:
    """Build one image on our base. The machine's own network is the one that is known to reach the registries."""
    base = f"BASE_IMAGE={BASE_IMAGE}"
    run("docker", "build", "--network=host", "--build-arg", base, "--tag", image, "--file", recipe, context)


if __name__ == "__main__":
    build_images()
    sys.stdout.write(f"{BASE_IMAGE}\n{POSTGRES_IMAGE}\n{FLYWAY_IMAGE}\n{COMMANDBUS_IMAGE}\n")
