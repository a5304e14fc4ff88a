"""Texts that have broken programs which took them for something else than text."""

from typing import Final

from hypothesis import strategies as st

HOSTILE: Final = (
    "[/prod]", "[bold]", "[link=http://a]b", ":smile:", "<script>alert(1)</script>", "</td></table>", "&", "&lt;",
    "\"'",     "a\nheadrace: all is well", "a\r\nb", "\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "a\x00b", "a\tb\x08\x7f",
    "\u202eabc\u202c", "\u2066abc\u2069", "a\u2028b", "\ud800", "\udcff", "x" * 20_000, "[" * 300, "$\\frac{", "$a$",
    "%s %d {} {0}", "_hidden", "", " ", "\ufffe", "\U0001f469\u200d\U0001f4bb", "日本語",
)  # fmt: skip

texts: Final = st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=40)
"""Any text, lone surrogates included; often one of those above."""


def wire(text: str) -> str:
    """Return a text as JSON on the wire can hold it: without lone surrogates."""
    return text.encode(errors="replace").decode()


json_texts: Final = texts.map(wire)
"""Any text that JSON on the wire can hold."""
