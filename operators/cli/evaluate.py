"""The command of off-policy evaluation: `headrace evaluate`."""

from typing import Annotated

import typer

from headrace.clock import read_time_ms
from headrace.errors import Misconfigured
from operators.cli.app import LogUrl, app
from operators.terminal import say, say_json

REFUSED = 3
"""The exit code where the log cannot tell what a policy would have earned."""


@app.command()
def evaluate(
    policy: Annotated[
        str, typer.Argument(help="logged, uniform, always:ACTION, policy:VERSION, or a file .toml or .json")
    ],
    begin: Annotated[str | None, typer.Option("--from", help="Answers from this time on (ISO 8601)")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Answers before this time")] = None,
    experiment: Annotated[
        str | None, typer.Option(help="The experiment whose choices are judged; by default the only one of arms")
    ] = None,
    lists: Annotated[
        bool, typer.Option("--lists", help="Judge lists whose items have propensities, not an experiment")
    ] = False,
    placement: Annotated[str | None, typer.Option(help="Only answers of this placement")] = None,
    position: Annotated[
        int | None, typer.Option(min=0, help="Only choices of this place of the list; 0: of the whole list's ranker")
    ] = None,
    reward: Annotated[
        str, typer.Option(help="click, revenue, conversion, or a metric of the experiment, per answer")
    ] = "click",
    estimators: Annotated[
        str, typer.Option(help="all, or names such as ips,snips,dr; by default the one of the verdict")
    ] = "",
    level: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="What intervals are to cover the truth with")
    ] = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
    log: LogUrl = None,
) -> None:
    """Tell what a policy would have earned, from what was logged; exit with 3 where the log cannot tell it."""
    from operators.deployment import read_deployment
    from operators.evaluation.reading import Wanted, experiment_of
    from operators.evaluation.report import judge, result_json, result_text
    from operators.evaluation.sums import Unevaluable
    from operators.progress import TaskReport
    from operators.replay.plan import opened_to_read

    if lists and (experiment is not None or position is not None):
        raise Misconfigured("evaluate: wanted --lists alone, found --experiment or --position beside it")
    begin_ms = None if begin is None else read_time_ms("--from", begin)
    end_ms = None if end is None else read_time_ms("--to", end)
    if begin_ms is not None and end_ms is not None and begin_ms >= end_ms:
        raise Misconfigured(f"--from {begin} --to {end}: wanted a range with a begin before its end")
    deployment = read_deployment(log=log)
    with opened_to_read(deployment.settings) as log_:
        chosen = None if lists else experiment_of(log_, experiment)
        wanted = Wanted(chosen, placement, position, begin_ms, end_ms)
        try:
            found = judge(
                log_, policy, wanted, reward=reward, estimators=estimators, level=level,
                sections=deployment.sections, report=TaskReport("evaluate"),
            )  # fmt: skip
        except Unevaluable as refused:
            if as_json:
                say_json({"policy": policy, "refused": refused.reason, "why": str(refused)})
            say(f"evaluate {policy}: refused: {refused}", error=True)
            raise typer.Exit(REFUSED) from None
    if as_json:
        say_json(result_json(found))
    else:
        say(result_text(found))
