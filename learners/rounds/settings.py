"""The settings of fine-tuning rounds."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from headrace.surface import STATE_INDEPENDENT


def _not_shaping(description: str, **bounds: Any) -> Meta:
    return Meta(description=description, extra=STATE_INDEPENDENT, **bounds)


class RoundsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[rounds]`. Counts are of records of `events`; `train_s_max` is wall-clock time, other times are
    event time."""

    round_events: Annotated[int, Meta(ge=1, description="Records of `events` after which a round is due.")] = 20_000
    round_ms: Annotated[int, Meta(ge=1, description="Event time, in ms, after which a round is due.")] | None = None
    drift_events_min: Annotated[
        int,
        Meta(ge=1, description="Least number of records between two rounds when a drift alarm triggers the second."),
    ] = 5_000
    staleness_hits: Annotated[
        float,
        Meta(
            ge=0,
            le=1e9,
            description="Hits among the first 20 that the champion must have lost by not being updated for a round to"
            " be due; 0 switches this trigger off. Above 0, the champion predicts for every event.",
        ),
    ] = 0.0
    gate_records_max: Annotated[
        int, Meta(ge=1, description="Records of `events` after which a candidate without a verdict is refused.")
    ] = 10_000
    holdout_share: Annotated[
        float, Meta(ge=0, le=1, description="Share of shoppers whose sessions no round trains on.")
    ] = 0.05
    seed: Annotated[int, Meta(description="Seed of training and of the choice of holdout shoppers.")] = 0
    items_max: Annotated[
        int, Meta(ge=1, le=1 << 20, description="Most items in the catalogue, as in `[next_item]`.")
    ] = 131_072
    shoppers_max: Annotated[
        int, Meta(ge=1, description="Most shoppers whose context is kept, as in `[next_item]`.")
    ] = 100_000
    window_max: Annotated[int, Meta(ge=1, description="Most sessions since the last round that a round trains on.")] = (
        50_000
    )
    rehearsal_max: Annotated[int, Meta(ge=1, description="Most earlier sessions that are kept for rehearsal.")] = 50_000
    slices_max: Annotated[int, Meta(ge=1, description="Most retention slices that are kept.")] = 6
    slice_steps_max: Annotated[int, Meta(ge=1, description="Most predictions in one retention slice.")] = 1_000
    rehearsal_share: Annotated[float, _not_shaping("Rehearsed sessions per new session in each pass.", ge=0, le=10)] = (
        0.6
    )
    first_passes: Annotated[
        int, _not_shaping("Passes over the training data in a round without a champion to start from.", ge=1)
    ] = 8
    passes: Annotated[int, _not_shaping("Passes over the training data in any other round.", ge=1)] = 3
    learning_rate: Annotated[float, _not_shaping("Highest learning rate of AdamW during a round.", gt=0, lt=1)] = 3e-3
    width: Annotated[
        int,
        _not_shaping(
            "Dimensions of the items' vectors in a model that is trained without a champion to start from.",
            ge=2,
            multiple_of=2,
        ),
    ] = 100
    train_s_max: Annotated[
        float, _not_shaping("Wall-clock time, in seconds, after which training ends with the weights reached.", gt=0)
    ] = 3_600.0
    device: Annotated[
        Literal["auto", "cpu", "cuda"], _not_shaping("Device of torch: `auto` uses a GPU if there is one.")
    ] = "auto"
    threads: Annotated[int, _not_shaping("Threads of torch on the CPU.", ge=1)] = 1
