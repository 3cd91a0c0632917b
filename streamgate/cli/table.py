"""Rows and columns: framed and coloured on a terminal, plain text in a pipe."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = "  "
MARKED = "green"


def show(console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]], *, marked: int | None = None) -> None:
    """Print `rows` under `titles`; the row `marked` stands out on a terminal. A pipe gets every cell whole, however long."""
    if console.is_terminal:
        console.print(_framed(titles, rows, marked))
        return
    lines = [list(titles), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    for line in lines:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        console.print(GAP.join(padded).rstrip(), markup=False, highlight=False, soft_wrap=True)


def _framed(titles: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*map(Text, row), style=MARKED if number == marked else None)
    return table
