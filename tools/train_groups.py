"""Group with fixed networks as experts (LBG, DALBG), or train what they are compared with, and test."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lbgnas.cli import guarded, parse, start_torch
from lbgnas.config import read_yaml, to_yaml, validated
from lbgnas.group_settings import GroupSettings


def run(argv: Sequence[str]) -> None:
    """Parse, train, measure, print."""
    settings, flags = parse(GroupSettings, "groups", argv, __doc__)
    device = start_torch(flags.device, flags.threads)
    import torch

    from lbgnas.data.statistics import described
    from lbgnas.engine.groups import GroupTraining
    from lbgnas.engine.run_folder import CONFIG, existing_folder, new_folder, write_environment
    from lbgnas.files import write_text
    from lbgnas.report.audit import say_audit
    from lbgnas.report.progress import Console

    if flags.resume is not None:
        folder = existing_folder(flags.resume)
        settings = validated(GroupSettings, read_yaml(folder / CONFIG), str(folder / CONFIG))
    else:
        data, network = settings.data.partition(":")[0], settings.experts.replace(":", "-")
        folder = new_folder(flags.out, f"groups-{data}-{settings.method}-{network}-seed{settings.seed}")
    console = Console()
    training = GroupTraining(settings, folder, device, resume=flags.resume is not None, report=console)
    if flags.resume is None:
        write_text(folder / CONFIG, to_yaml(settings))
    write_environment(folder, str(device), torch.get_num_threads())
    console.say(described(training.data))
    console.say(training.summary())
    measures = training.run()
    console.say("")
    console.say(measures.to_markdown())
    say_audit(folder, measures.data, measures.fairness, console.say)
    console.say(f"results: {folder}")


if __name__ == "__main__":
    sys.exit(guarded("train_groups", run))
