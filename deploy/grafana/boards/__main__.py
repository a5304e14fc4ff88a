"""Writes Grafana's dashboards: `python -m deploy.grafana.boards` in the project's folder."""

from pathlib import Path
from typing import Final

from deploy.grafana.boards import business, drift, experiments, learning, overview, rounds, serving, shoppers, stream
from deploy.grafana.boards.panels import Board, as_json

FOLDER: Final = Path(__file__).parents[1] / "dashboards"
BOARDS: Final[tuple[Board, ...]] = tuple(
    module.BOARD for module in (overview, learning, drift, rounds, stream, serving, experiments, business, shoppers)
)


def main() -> None:
    """Write each dashboard, and remove what is none of them."""
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for board in BOARDS:
        (FOLDER / f"{board.name}.json").write_text(as_json(board), encoding="utf-8")


if __name__ == "__main__":
    main()
