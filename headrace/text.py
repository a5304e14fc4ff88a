"""Text from outside, made safe to show: ids, paths, names, and what others wrote into the log or into an error."""

from typing import Any, Final

characters_max: Final = 4_000
"""Most characters of a line that are shown, about as long as the longest path."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet takes for a formula."""


def visible(text: str, shown_max: int = characters_max) -> str:
    r"""Return a text as one line in which every character can be seen.

    Line breaks, other control characters (which could clear a terminal or set its title), marks of the direction of
    writing and lone surrogates become escapes. The end of a text that is too long becomes its length.

    >>> visible("a\x1b[2Jb\nc\u202ed"), visible("12345", 3)
    ('a\\x1b[2Jb\\nc\\u202ed', '123… (5 characters)')
    """
    if len(text) > shown_max:
        text = f"{text[:shown_max]}… ({len(text):,} characters)"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def visible_lines(text: str) -> str:
    r"""Return a text of several lines, each of them `visible`, all but the first indented to show what they belong to.

    >>> visible_lines("it failed:\nline 1\t\nheadrace: all is well")
    'it failed:\n  line 1\\t\n  headrace: all is well'
    """
    return "\n  ".join(visible(line) for line in text.split("\n"))


def cell(value: Any) -> Any:
    """Return a value as a cell that a spreadsheet shows and does not compute: ids are what anybody has sent.

    >>> cell("-1+2"), cell("ann"), cell(-3.5)
    ("'-1+2", 'ann', -3.5)

    Source: OWASP, "CSV Injection".
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
