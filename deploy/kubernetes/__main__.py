"""Writes the rules of deploy/prometheus as a resource of the Prometheus operator: python -m deploy.kubernetes."""

from pathlib import Path
from typing import Final

RULES: Final = Path(__file__).parents[1] / "prometheus/rules"
WRITTEN: Final = Path(__file__).parent / "components/monitoring/rules.yaml"
HEAD: Final = """\
# Written by `python -m deploy.kubernetes` from deploy/prometheus/rules: change those, not this file.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: headrace
spec:
"""


def rules() -> str:
    """Return the rules as one resource: the text of each file below `spec`, without its comments at the top."""
    (path,) = RULES.glob("*.yml")
    text = path.read_text()
    return HEAD + "".join(
        f"  {line}" if line.strip() else line for line in text[text.index("groups:") :].splitlines(True)
    )


if __name__ == "__main__":
    WRITTEN.write_text(rules())
