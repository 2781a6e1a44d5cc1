"""Two versions of a JSON value as lines that people can compare."""

import difflib
from dataclasses import dataclass
from typing import Any

from commandbus.console.looks import pretty

_MOST_LINES = 1_500  # of both versions; the search for what they share is quadratic
_AROUND = 3
_TONES = {"+": "success", "-": "danger"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a difference: *sign* is "+", "-", " ", or "…" where equal lines are left out."""

    sign: str
    text: str

    @property
    def tone(self) -> str:
        """Its colour, or nothing."""
        return _TONES.get(self.sign, "")


def difference(before: Any, after: Any) -> list[Line]:  # noqa: ANN401  (any JSON)
    """Return what was taken out and put in, with a few lines around; nothing when both look the same."""
    old, new = pretty(before).splitlines(), pretty(after).splitlines()
    if old == new:
        return []
    if len(old) + len(new) > _MOST_LINES:
        return [*_cut(old, "-"), *_cut(new, "+")]
    found: list[Line] = []
    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(_AROUND):
        if found or group[0][1]:
            found.append(Line("…", ""))
        for kind, i, j, k, m in group:
            if kind == "equal":
                found += [Line(" ", text) for text in old[i:j]]
            else:
                found += [Line("-", text) for text in old[i:j]] + [Line("+", text) for text in new[k:m]]
    return found


def _cut(lines: list[str], sign: str) -> list[Line]:
    shown = [Line(sign, text) for text in lines[: _MOST_LINES // 4]]
    return shown if len(shown) == len(lines) else [*shown, Line("…", f"{len(lines) - len(shown):,} lines more")]
