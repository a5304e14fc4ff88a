"""What the server process of `tests.chaos.processes` imports before the first fork. Nothing else imports this.

The server ends with the campaign, whatever ends that one, and all processes end with the server.
"""

import os

import consumers.shard
import headrace.log.kafka.log
import headrace.log.sqlite
import headrace.metrics
import learners.deep.model
import learners.next_item.judge
import learners.rounds.judge
import operators.cli
import operators.deployment
import operators.progress
import producers.load
import producers.simulate
import serving.app
import tests.chaos.processes
from headrace.tied import die_with
from tests.chaos.processes import PARENT

__all__ = ["consumers", "headrace", "learners", "operators", "producers", "serving", "tests"]

if os.environ.get(PARENT) == str(os.getppid()):
    die_with(os.getppid())
