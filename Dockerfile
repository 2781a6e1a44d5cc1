# The command line in a container, for workers, operators and the console: docker build -t commandbus .
# The same versions as everywhere, of constraints.txt. Needs no BuildKit.

ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /source
RUN python3 -m venv /opt/commandbus
ENV PATH=/opt/commandbus/bin:$PATH
COPY constraints.txt .
RUN pip install --quiet --no-cache-dir --constraint constraints.txt --upgrade pip
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY src src
RUN pip install --quiet --no-cache-dir --constraint constraints.txt --build-constraint constraints.txt '.[console]' \
    && pip uninstall --quiet --yes pip

FROM ${BASE_IMAGE}
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin commandbus
COPY --from=build /opt/commandbus /opt/commandbus
ENV PATH=/opt/commandbus/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Modules with handlers are mounted or copied here.
WORKDIR /app
USER 10001:10001
# Cheaper than `doctor`: it needs the database, its schema and the rights on it, and waits for no notification.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["commandbus", "queue", "list", "--json"]
ENTRYPOINT ["commandbus"]
CMD ["--help"]
