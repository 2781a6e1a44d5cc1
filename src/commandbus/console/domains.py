"""Domains as lists show them: those that need attention first, then by name; found by a part of it, page by page."""

from collections.abc import Sequence
from dataclasses import dataclass

from commandbus.console.attention import Need
from commandbus.console.forms import Form
from commandbus.models import DomainOverview

_MOST_TEXT = 100
_DEEPEST = 100_000


@dataclass(frozen=True, slots=True)
class Domains:
    """A page of domains.

    Attributes:
        rows: these.
        first: the place of the first, from 1.
        matching: how many there are in all that match.
        has_others: whether it is not all that there is.
        newer: the offset of the page before, or None.
        older: of the next one.
    """

    rows: Sequence[DomainOverview]
    first: int
    matching: int
    has_others: bool
    newer: int | None
    older: int | None


def find_domains(form: Form, domains: Sequence[DomainOverview], needs: Sequence[Need], size: int) -> Domains:
    """Return the page of at most *size* domains that a query asks for, by its fields *find* and *offset*.

    Args:
        form: the query; what is wrong with it stands in it afterwards.
        domains: all.
        needs: what needs attention, most urgent first.
        size: most of a page.
    """
    text, offset = (form.text("find", _MOST_TEXT) or "").lower(), form.count("offset", 0, _DEEPEST, 0) or 0
    urgency = {name: place for place, name in reversed(list(enumerate(need.values.get("domain") for need in needs)))}
    calm = len(needs)

    def place(one: DomainOverview) -> tuple[int, str]:
        return urgency.get(one.domain, calm if one.in_troubleshooting else calm + 1), one.domain

    found = sorted((one for one in domains if text in one.domain), key=place)
    rows, end = found[offset : offset + size], offset + size
    before = min(offset, len(found) + size - 1) - size
    return Domains(
        rows,
        offset + 1,
        len(found),
        len(rows) < len(domains),
        max(before - before % size, 0) if offset else None,
        end if end < len(found) else None,
    )
