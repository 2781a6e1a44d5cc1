"""Words that more than one floor needs."""


def counted(number: int, what: str) -> str:
    """Return a number and what it is of, such as "1 process" or "2,000 processes"."""
    plural = "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{'' if number == 1 else plural}"
