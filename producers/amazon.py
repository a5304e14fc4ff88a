"""Amazon reviews as JSON lines, as `review` events.

Columns of 2018: reviewerID, asin, overall, unixReviewTime (seconds, a day's start), reviewText, summary. Columns of
2023: user_id, parent_asin (the product) and asin (its variant), rating, timestamp (milliseconds), text, title. The
files are in no order of time, so they are sorted.

Source: Ni, Li & McAuley (2019), Justifying recommendations using distantly-labeled reviews, EMNLP; Hou et al. (2024),
Bridging language and items for retrieval and recommendation, arXiv 2403.03952.
"""

from pathlib import Path
from typing import Final, final

import msgspec

from headrace.log.protocol import decode_json
from producers.file import ReadOptions, Source, first_lines
from producers.mapped import RowReader
from producers.mapping import EventFields, Field, Format, ItemFields, Mapping, TimeField


class _Of2018(msgspec.Struct):
    reviewer: object = msgspec.field(name="reviewerID")
    asin: object
    time: object = msgspec.field(name="unixReviewTime")


class _Of2023(msgspec.Struct):
    user_id: object
    asin: object
    rating: object
    timestamp: object


OF_2018: Final = Mapping(
    event=EventFields(
        type="review", time=TimeField("unixReviewTime", unit="s"), shopper="reviewerID", rating="overall",
        review=Field(("reviewText", "summary")),
    ),
    item=ItemFields(item_id="asin"),
    sort=True,
)  # fmt: skip
OF_2023: Final = Mapping(
    event=EventFields(
        type="review", time=TimeField("timestamp", unit="ms"), shopper="user_id", rating="rating",
        review=Field(("text", "title")),
    ),
    item=ItemFields(item_id=Field(("parent_asin", "asin"))),
    sort=True,
)  # fmt: skip


@final
class AmazonReviews(RowReader):
    """Reads a plain or gzipped file of either year."""

    source = Source("amazon_reviews", frozenset({"views", "purchases"}))
    description = "Amazon reviews, JSON lines (plain or .gz) with reviewerID, asin, … (2018) or user_id, asin, … (2023)"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return any(
            decode_json(line, _Of2018) is not None or decode_json(line, _Of2023) is not None
            for line in first_lines(path)
        )

    @classmethod
    def _read_as(cls, path: Path, options: ReadOptions) -> tuple[Mapping, Format]:
        of_2018 = any(decode_json(line, _Of2018) is not None for line in first_lines(path))
        return OF_2018 if of_2018 else OF_2023, "jsonl"
