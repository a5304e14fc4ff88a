"""Items of a shop: JSON lines of item records, or a feed for Google Merchant as a text file (TSV or CSV)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, final
from uuid import uuid4

import msgspec
from msgspec import UNSET, Struct

from headrace.events import Rejection
from headrace.items import decode, ignored
from headrace.log.protocol import Record, decode_json
from headrace.topics import ITEMS
from producers.file import FileReader, ReadOptions, Source, first_lines
from producers.sequence import NumberedRecord
from producers.table import DELIMITERS, find_columns, rows

COLUMNS: Final[Mapping[str, Sequence[str]]] = {
    "id": ("id",),
    "title": ("title",),
    "availability": ("availability",),
    "price": ("price",),
    "brand": ("brand",),
    "product_type": ("product_type", "google_product_category"),
    "image_link": ("image_link",),
    "link": ("link",),
    "item_group_id": ("item_group_id",),
    "gtin": ("gtin",),
    "cost_of_goods_sold": ("cost_of_goods_sold",),
    "external_seller_id": ("external_seller_id",),
    "quantity": ("quantity",),
    "sale_price": ("sale_price",),
    "sale_price_effective_date": ("sale_price_effective_date",),
    "lead_time_days": ("lead_time_days",),
    "lead_time_spread_days": ("lead_time_spread_days",),
    "pack_size": ("pack_size",),
    "minimum_order": ("minimum_order",),
    "shelf_life_days": ("shelf_life_days",),
    "on_order": ("on_order",),
}
"""The columns of a feed that are read, by the field of a record, and the names of each. The others are optional."""
REQUIRED: Final = ("id", "title", "availability")
"""Columns without which a text file is no feed."""


class _Line(Struct):
    id: str
    title: object = UNSET
    availability: object = UNSET
    price: object = UNSET
    retired: object = UNSET
    type: object = UNSET
    specversion: object = UNSET

    @property
    def states_an_item(self) -> bool:
        """Whether this is an item record, and no event."""
        stated = (self.title, self.availability, self.price, self.retired)
        return any(one is not UNSET for one in stated) and self.type is self.specversion is UNSET


class _Id(Struct):
    id: str


_id = msgspec.json.Decoder(_Id)


@final
class ItemFeed(FileReader):
    """Reads a plain or gzipped file of items, one to a line or row.

    Unlike events, items are published at each run: a file that is loaded again states its items anew, also if others
    were stated in between. A repeated record changes nothing.
    """

    source = Source("items")
    topic: ClassVar[str] = ITEMS
    description = (
        'a text file (plain or .gz) of one item in JSON per line, {"id":...,"title":...}, or a feed for Google Merchant'
        f" with the columns {', '.join(REQUIRED)}"
    )

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self._run = uuid4().hex
        super().__init__(path, options)

    def _seed(self) -> str:
        return f"{super()._seed()} {self._run}"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        lines = first_lines(path)
        return bool(_columns(lines)) or any(
            (found := decode_json(line, _Line)) is not None and found.states_an_item for line in lines
        )

    def _records(self) -> Iterator[NumberedRecord]:
        columns = _columns(first_lines(self._path))
        for number, document in self._rows(columns) if columns else self._documents():
            digest = self._digest.add(document)
            try:
                key = _id.decode(document).id.encode()
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                key = b""
            found = decode(Record(0, 0, 0, key or b"?", document))
            if not isinstance(found, Rejection) and not key:
                found = Rejection("key_missing", "wanted the item's id as id, found none")
            if isinstance(found, Rejection):
                self._reject(found.reason, f"line {number}", found.detail)
            else:
                for fault in ignored(document):
                    self._reject("schema", f"line {number}", fault)
                yield NumberedRecord(number, self._options.clock(), key, document, ITEMS, digest)

    def _documents(self) -> Iterator[tuple[int, bytes]]:
        """Yield the numbered lines that are not blank."""
        for number, line in self._lines():
            if document := line.strip():
                yield number, document

    def _rows(self, columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[int, bytes]]:
        """Yield the numbered rows of a feed, each as an item's document."""
        for number, values in rows(self._lines(), columns, self._reject, where=str(self._path)):
            row: dict[str, Any] = {
                field: value for field, text in zip(columns, values, strict=True) if (value := text.strip())
            }
            yield number, msgspec.json.encode(row)


def _columns(lines: Sequence[bytes]) -> dict[str, Sequence[str]]:
    """Return the columns of a feed that its header has, by field; none if it is no header of a feed."""
    if not lines:
        return {}
    required, _ = find_columns(lines[0], {name: COLUMNS[name] for name in REQUIRED}, DELIMITERS)
    if required is None:
        return {}
    return {
        name: aliases
        for name, aliases in COLUMNS.items()
        if find_columns(lines[0], {name: aliases}, required.delimiter)[0]
    }
