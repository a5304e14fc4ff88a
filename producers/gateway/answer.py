"""What the gateway answers."""

from msgspec import Struct

from producers.gateway.intake import Becomes, Refusal, Taken


class Answer(Struct, frozen=True):
    """What became of a body.

    Attributes:
        accepted: entries whose records are safe.
        repeated: entries whose id is known; they were safe before.
        unused: entries of which nothing is kept, such as page views.
        spooled: of the accepted ones, those that wait on the gateway's disk until the log answers again.
        refused: entries that cannot be used; sending them again does not help.
    """

    accepted: int
    repeated: int
    unused: int
    spooled: int
    refused: list[Refusal]


class Explanation(Struct, frozen=True):
    """What would become of a body, of which nothing was written."""

    dry_run: bool
    entries: list[Becomes]
    refused: list[Refusal]


class ProblemDocument(Struct, omit_defaults=True):
    """Why a request was refused as a whole. `type` is `urn:headrace:problem:` and a code."""

    type: str
    title: str
    status: int
    detail: str
    refused: list[Refusal] = []


def answer_of(taken: Taken, *, spooled: bool) -> Answer:
    """Return the answer to a body whose records are safe."""
    return Answer(
        taken.accepted, taken.repeated, taken.unused, taken.accepted if spooled else 0, taken.refused
    )  # fmt: skip


def explanation_of(taken: Taken) -> Explanation:
    """Return the answer to a dry run."""
    return Explanation(True, taken.becomes, taken.refused)


def counts_of(taken: Taken) -> dict[str, int]:
    """Return how many entries became what, for metrics."""
    return {
        "accepted": taken.accepted, "repeated": taken.repeated, "unused": taken.unused, "refused": len(taken.refused),
    }  # fmt: skip
