"""The containers: built from what Debian, PyPI and Maven offer, started by the very docker-compose.yml."""
