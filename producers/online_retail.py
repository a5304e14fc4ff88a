"""UCI Online Retail: invoice lines of a gift shop, as `purchase` and `refund` events.

Rules, all counted in `rejected`:

- An invoice is one `purchase`; one whose number starts with C is a cancellation and one `refund`; other letters are
  bookkeeping ("adjustment") and left out.
- A product code starts with five digits or with DCGS. Everything else (POST, DOT, M, D, S, B, C2, PADS, CRUK, BANK
  CHARGES, AMAZONFEE, gift vouchers) is a charge, not a product ("not_a_product").
- A quantity of 0 or below without a C, or above 0 with one, is a stock correction ("quantity"); so is a price of 0
  ("price").
- An invoice of which nothing is left is no event ("invoice_empty").
- An invoice of over `items_max` lines becomes several events with the same transaction_id.
- A line without CustomerID belongs to a shopper `guest-INVOICE`.
- The event's time is that of the invoice's first line, to the minute, taken as UTC. The file is in time order by day,
  so the events of one day are put in order before they are numbered.

Source: Chen, D. (2015), Online Retail, UCI Machine Learning Repository, doi 10.24432/C5BW33.
"""

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Final, final

from headrace.events import Data, Event, Item, encode, items_max
from producers.file import FileReader, Source, first_line
from producers.publisher import Numbered

COLUMNS: Final = [
    "InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country",
]  # fmt: skip
_PRODUCT: Final = re.compile(r"\d{5}|DCGS")
Row = tuple[int, dict[str, str]]


def _time(row: dict[str, str]) -> datetime:
    return datetime.fromisoformat(row["InvoiceDate"]).replace(tzinfo=UTC)


@final
class OnlineRetail(FileReader):
    """Reads the CSV file, plain or gzipped, holding one day of it at a time."""

    source = Source("online_retail", frozenset({"views"}))
    looks_like = "a CSV file (plain or .gz) whose first line is " + ",".join(COLUMNS)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return first_line(path).decode("utf-8", "replace").split(",") == COLUMNS

    def records(self) -> Iterator[Numbered]:
        number = 0
        with self._open() as file:
            text = io.TextIOWrapper(file, "utf-8", errors="replace", newline="")
            for _, day in groupby(self._rows(text), lambda row: row[1]["InvoiceDate"][:10]):
                invoices = [(_time(rows[0][1]), rows) for rows in self._invoices(day)]
                for time, rows in sorted(invoices, key=lambda invoice: invoice[0]):
                    for shopper, event in self._events(time, rows, number):
                        record = Numbered(number, int(time.timestamp()) * 1000, shopper.encode(), encode(event))
                        if self._usable(record, f"line {rows[0][0]}"):
                            yield record
                        number += 1

    def _rows(self, text: io.TextIOWrapper) -> Iterator[Row]:
        rows = csv.DictReader(text)
        try:
            for row in rows:
                where = f"line {rows.line_num}"
                try:
                    if None in row or None in row.values():
                        raise ValueError(f"wanted {len(COLUMNS)} columns")
                    _time(row), int(row["Quantity"]), float(row["UnitPrice"])
                except ValueError as error:
                    self._reject("row", where, str(error))
                else:
                    yield rows.line_num, row
        except csv.Error as error:
            self._reject("row", f"line {rows.line_num}", f"{error}; the rest of the file was not read")

    @staticmethod
    def _invoices(day: Iterator[Row]) -> Iterator[list[Row]]:
        for _, rows in groupby(day, lambda row: row[1]["InvoiceNo"]):
            yield list(rows)

    def _events(self, time: datetime, rows: list[Row], number: int) -> Iterator[tuple[str, Event]]:
        line, first = rows[0]
        invoice = first["InvoiceNo"].strip()
        refund = invoice.startswith("C")
        if not refund and not invoice.isdigit():
            self._reject("adjustment", f"line {line}", f"invoice {invoice}")
            return
        items = [item for row in rows if (item := self._item(row, refund)) is not None]
        if not items:
            self._reject("invoice_empty", f"line {line}", f"invoice {invoice}")
        shopper = first["CustomerID"].strip().removesuffix(".0") or f"guest-{invoice}"
        for start in range(0, len(items), items_max):
            part = items[start : start + items_max]
            value = round(sum((item.price or 0.0) * item.quantity for item in part), 2)
            data = Data(items=part, currency="GBP", value=value, transaction_id=invoice)
            id_ = str(number + start // items_max)
            yield shopper, Event(id_, self._origin, "refund" if refund else "purchase", time, data, "1.0", shopper)

    def _item(self, row: Row, refund: bool) -> Item | None:
        line, fields = row
        code, quantity, price = fields["StockCode"].strip(), int(fields["Quantity"]), float(fields["UnitPrice"])
        if not _PRODUCT.match(code):
            self._reject("not_a_product", f"line {line}", f"code {code}")
        elif (quantity >= 0) == refund or quantity == 0:
            self._reject("quantity", f"line {line}", f"quantity {quantity} on invoice {fields['InvoiceNo']}")
        elif not 0 < price < 1e9:
            self._reject("price", f"line {line}", f"price {price}")
        else:
            return Item(code, fields["Description"].strip()[:500], price=price, quantity=min(abs(quantity), 10_000_000))
        return None
