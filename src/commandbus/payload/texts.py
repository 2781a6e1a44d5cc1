"""Texts for people: as PostgreSQL can store them, and without the data that they are about."""

import re

from pydantic import BaseModel, ValidationError

MAX_ERROR_LENGTH = 2_000

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Unicode's categories Cc, Cf, Zl and Zp: control, format (bidi, zero width), line and paragraph separators. By their
# numbers, since each Python knows another Unicode, and PostgreSQL none: commandbus._hidden() has the same text.
HIDDEN = re.compile(
    r"[\u0000-\u001f\u007f-\u009f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f"
    r"\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)


def is_hidden(character: str) -> bool:
    """Return whether a character is not seen itself, but may change how others are."""
    return HIDDEN.match(character) is not None


def clean_text(text: str, max_length: int = MAX_ERROR_LENGTH) -> str:
    """Return *text* as PostgreSQL can store it: no NUL or lone surrogate, at most *max_length* characters."""
    if len(text) > max_length:
        text = text[: max_length - 1] + "…"
    return UNSTORABLE.sub("\ufffd", text)


def describe_validation_error(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return where and how data does not fit a model, and none of it: ``amount: missing``.

    Below a field of *model* only places in lists are named: keys of objects come from the data.
    """
    known = {name for n, f in (model.model_fields if model else {}).items() for name in (n, f.alias)}
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{_place(p['loc'], known)}: {p['type']}" for p in problems)


def in_our_words(finding: str) -> str:
    """Return what pydantic says of a value, as our own errors say it: "must be a valid integer"."""
    said = finding.removeprefix("Value error, ")
    said = re.sub(r"^(?:Input|String|Value) should ", "must ", said)
    return re.sub(r"^(must be a valid \w+), .*", r"\1", said)


def _place(location: tuple[int | str, ...], known: set[str | None]) -> str:
    """Return the location of a problem without the names that only the data knows."""
    first, *rest = [str(part) if isinstance(part, int) or part in known else "[key]" for part in location] or ["data"]
    below = ["." + (part if part.isdigit() else "[key]") for part in rest]
    return first + "".join(below)


def counted(number: int, what: str) -> str:
    """Return a number and what it is of, such as "1 process" or "2,000 processes"."""
    plural = "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{'' if number == 1 else plural}"
