"""Options that say where to compute and what to show, which every command that computes has."""

import argparse
import os

from experiments.laboratory import resuming
from experiments.laboratory.tracking import trackers


def device_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where and how to compute, for this process and those that it starts."""
    parser.add_argument(
        "--device",
        metavar="D",
        help="auto, cpu, cuda, cuda:1 or mps (default: $RETRACE_DEVICE, or auto, what is there)",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same bytes every time on the same GPU, at some cost ($RETRACE_DETERMINISTIC=1)",
    )
    parser.add_argument(
        "--resume-anyway",
        action="store_true",
        help="go on from states of other code, too; meta.json has both ($RETRACE_RESUME_ANYWAY=1)",
    )
    trackers.options(parser)


def hand_down(given: argparse.Namespace) -> None:
    """Put these options where they are looked for, also by processes that this one starts."""
    trackers.hand_down(given)
    if given.device is not None:
        os.environ["RETRACE_DEVICE"] = given.device
    if given.deterministic:
        os.environ["RETRACE_DETERMINISTIC"] = "1"
    if given.resume_anyway:
        os.environ[resuming.ANYWAY] = "1"
    if os.environ.get("RETRACE_DEVICE", "auto") != "auto":
        from experiments.laboratory.device import requested

        requested()
