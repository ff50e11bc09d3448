"""Group with fixed networks as experts (LBG, DALBG), or train what they are compared with, and test."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lbgnas.cli import guarded, parse, start_torch
from lbgnas.group_settings import GroupSettings


def run(argv: Sequence[str]) -> None:
    """Parse, train, measure, print."""
    settings, flags = parse(GroupSettings, "groups", argv, __doc__)
    device = start_torch(flags.device, flags.threads)
    import torch

    from lbgnas.data.statistics import described
    from lbgnas.engine.groups import GroupTraining
    from lbgnas.engine.run_folder import opened, write_begin
    from lbgnas.report.audit import say_audit
    from lbgnas.report.progress import Console

    def name() -> str:
        data, network = settings.data.partition(":")[0], settings.experts.replace(":", "-")
        return f"groups-{data}-{settings.method}-{network}-seed{settings.seed}"

    folder, settings = opened(GroupSettings, settings, flags.resume, flags.out, name)
    console = Console()
    training = GroupTraining(settings, folder, device, resume=flags.resume is not None, report=console)
    write_begin(folder, settings, str(device), torch.get_num_threads())
    console.say(described(training.data))
    console.say(training.summary())
    measures = training.run()
    console.say("")
    console.say(measures.to_markdown())
    say_audit(folder, measures.data, measures.fairness, console.say)
    console.say(f"results: {folder}")


if __name__ == "__main__":
    sys.exit(guarded("train_groups", run))
