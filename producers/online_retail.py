"""UCI Online Retail and Online Retail II: invoice lines of a gift shop, as `purchase` and `refund` events.

Rules (in parentheses: the reason under which `rejected` counts the input):

- An invoice becomes one `purchase`. An invoice whose number starts with C is a cancellation and becomes one `refund`.
  Numbers with other letters are accounting entries and are rejected ("adjustment").
- A product code starts with five digits or with DCGS. Everything else (POST, DOT, M, D, S, B, C2, PADS, CRUK, BANK
  CHARGES, AMAZONFEE, gift vouchers) is a charge, not a product ("not_a_product").
- A quantity of 0 or below without a C, or above 0 with one, is a stock correction ("quantity"); so is a price of 0
  ("price").
- An invoice without any remaining line gives no event ("invoice_empty").
- An invoice of more than `items_max` lines becomes several events with the same transaction_id.
- A line without a CustomerID (empty, NA, nan, NULL, None) belongs to the shopper `guest-INVOICE`.
- The event's time is that of the invoice's first line. Without an offset it is one of the reader's zone. The file is
  ordered by day only, so the events of one day are sorted before they are numbered.
- Copies differ in delimiter, encoding, quoting, order of the columns and how dates are written; `producers.table` and
  `producers.times` say what is understood.

Source: Chen, D. (2015), Online Retail, UCI Machine Learning Repository, doi 10.24432/C5BW33; Chen, D. (2019), Online
Retail II, doi 10.24432/C5CG6D, which has the columns Invoice, StockCode, Description, Quantity, InvoiceDate, Price,
Customer ID and Country.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple, final

from headrace.events import Data, EventType, Item, items_max
from producers.file import FileReader, Source, first_lines
from producers.sequence import NumberedRecord
from producers.table import find_columns, rows
from producers.times import DateOrder, date_order, text_ms
from producers.values import as_number, is_missing

COLUMNS: Final = [
    "InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country",
]  # fmt: skip
"""The columns of Online Retail."""
WANTED: Final = {name: (name,) for name in COLUMNS if name != "Country"} | {
    "InvoiceNo": ("InvoiceNo", "Invoice"),
    "UnitPrice": ("UnitPrice", "Price"),
}
"""The columns that are read, and their names in either data set."""
_PRODUCT: Final = re.compile(r"\d{5}|DCGS")


class _Line(NamedTuple):
    """An invoice line; `content` is its text in the file."""

    number: int
    invoice: str
    code: str
    name: str
    quantity: float
    time_ms: int
    price: float
    customer: str
    content: bytes


@final
class OnlineRetail(FileReader):
    """Reads the plain or gzipped CSV file, keeping one day of it in memory at a time."""

    source = Source("online_retail", frozenset({"views"}))
    description = "a CSV file (plain or .gz) with the columns " + ", ".join(COLUMNS) + ", or those of Online Retail II"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return any(find_columns(line, WANTED)[0] for line in first_lines(path)[:2])

    def _seed(self) -> str:
        return f"{super()._seed()} {self._options.zone} {self._options.date_order}"

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        return rows(self._lines(), WANTED, self._reject, where=str(self._path))

    def _records(self) -> Iterator[NumberedRecord]:
        place = list(WANTED).index("InvoiceDate")
        order = self._options.date_order or date_order((row[place] for _, row in self._rows()), str(self._path))
        self._begin()
        number = 0
        lines = (line for found, row in self._rows() if (line := self._line(found, row, order)) is not None)
        for _, day in groupby(lines, lambda line: line.time_ms // 86_400_000):
            invoices = [list(invoice) for _, invoice in groupby(day, lambda line: line.invoice)]
            for invoice in sorted(invoices, key=lambda invoice: invoice[0].time_ms):
                for record in self._events(invoice, number):
                    number += 1
                    if record is not None:
                        yield record

    def _line(self, number: int, row: list[str], order: DateOrder) -> _Line | None:
        invoice, code, name, quantity, date, price, customer = (field.strip() for field in row)
        content = "\x1f".join((invoice, code, name, quantity, date, price, customer)).encode()
        try:
            time_ms = text_ms(date, order, self._options.zone)
            found = _Line(
                number, invoice.removesuffix(".0"), code, name, as_number(quantity), time_ms, as_number(price),
                "" if is_missing(customer) else customer.removesuffix(".0"), content,
            )  # fmt: skip
        except (ValueError, OverflowError) as error:
            self._reject("row", f"line {number}", str(error))
            return None
        self._digest.begin(content)
        return found

    def _events(self, lines: list[_Line], number: int) -> Iterator[NumberedRecord | None]:
        first = lines[0]
        where, invoice = f"line {first.number}", first.invoice
        content = b"\x1e".join(line.content for line in lines)
        refund = invoice.startswith("C")
        if not refund and not invoice.isdigit():
            self._reject("adjustment", where, f"invoice {invoice}")
            return
        items = [item for line in lines if (item := self._item(line, refund)) is not None]
        if not items:
            self._reject("invoice_empty", where, f"invoice {invoice}")
        type_: EventType = "refund" if refund else "purchase"
        for start in range(0, len(items), items_max):
            part = items[start : start + items_max]
            value = round(sum((item.price or 0.0) * item.quantity for item in part), 2)
            data = Data(items=part, currency="GBP", value=value, transaction_id=invoice)
            digest = self._digest.add_sorted(b"%d %s" % (start, content), first.time_ms)
            yield self._event(
                number + start // items_max, digest, type_, first.time_ms, first.customer or f"guest-{invoice}", data,
                where,
            )  # fmt: skip

    def _item(self, line: _Line, refund: bool) -> Item | None:
        where = f"line {line.number}"
        if not _PRODUCT.match(line.code):
            self._reject("not_a_product", where, f"code {line.code}")
        elif (line.quantity >= 0) == refund or line.quantity == 0 or line.quantity != int(line.quantity):
            self._reject("quantity", where, f"quantity {line.quantity:g} on invoice {line.invoice}")
        elif not 0 < line.price < 1e9:
            self._reject("price", where, f"price {line.price}")
        else:
            quantity = min(int(abs(line.quantity)), 10_000_000)
            return Item(line.code, line.name[:500], price=line.price, quantity=quantity)
        return None
