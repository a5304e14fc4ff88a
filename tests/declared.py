"""What pages that families declare say, for tests that they are translated and can be drawn."""

from collections.abc import Iterator, Sequence

from headrace.pages import Course, Figures, Listing, Section
from operators.catalogue import catalogue


def texts_of(sections: Sequence[Section]) -> Iterator[str]:
    """Yield the texts of a family in sections: no numbers, and nothing that a shop has written."""
    for section in sections:
        yield from (section.title, section.about)
        for one in section.drawn:
            if isinstance(one, Figures):
                yield from (figure.name for figure in one.figures)
            elif isinstance(one, Listing):
                yield from (one.title, *(column.name for column in one.columns))
                for row in one.rows:
                    assert len(row) == len(one.columns)
                    for column, value in zip(one.columns, row, strict=True):
                        if value is not None and column.kind == "text":
                            yield value
                        if value is not None and column.kind == "pairs":
                            yield from value
            elif isinstance(one, Course):
                yield one.title
                assert {len(values) for values in one.lines.values()} <= {len(one.times)}


def untranslated(sections: Sequence[Section], language: str) -> set[str]:
    """Return the texts of sections that a language lacks; names of one letter need none."""
    return {text for text in texts_of(sections) if len(text) > 1 and not catalogue(language).has(text)}
