"""NNI's DARTS strategy on NNI's DARTS space, run as its users run it, one search step at a time."""

from __future__ import annotations

import logging
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator

from torch.utils.data import DataLoader, IterableDataset


class _Endless(IterableDataset):
    def __init__(self, batches: Iterator, side: int) -> None:
        self.batches, self.side = batches, side

    def __iter__(self):
        for pair in self.batches:
            yield pair[self.side][:2]


def nni_step(cells: int, channels: int, batches: Callable[[], Iterator]) -> Callable[[], None]:
    """Return a function that lets NNI take one step: architecture on a validation batch, weights on a training batch.

    NNI runs whole experiments only. This one runs in a thread whose trainer waits for its turn before every step.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nni.nas.strategy as strategy
        import pytorch_lightning as lightning
        from nni.nas.evaluator.pytorch import Classification
        from nni.nas.experiment import NasExperiment
        from nni.nas.hub.pytorch import DARTS

    for name in ("nni", "pytorch_lightning", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    turn, done = threading.Semaphore(0), threading.Semaphore(0)
    failed: list[BaseException] = []

    class Turns(lightning.Callback):
        def on_train_batch_start(self, *_: object) -> None:
            turn.acquire()

        def on_train_batch_end(self, *_: object) -> None:
            done.release()

    evaluator = Classification(
        learning_rate=0.025,
        weight_decay=3e-4,
        num_classes=10,
        train_dataloaders=DataLoader(_Endless(batches(), 0), batch_size=None),
        val_dataloaders=DataLoader(_Endless(batches(), 1), batch_size=None),
        max_epochs=1,
        callbacks=[Turns()],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    space = DARTS(width=channels, num_cells=cells, dataset="cifar")
    experiment = NasExperiment(space, evaluator, strategy.DARTS())
    experiment.config.experiment_working_directory = tempfile.mkdtemp()
    experiment.config.log_level = "error"

    def search() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                experiment.run()
            except BaseException as error:
                failed.append(error)
                done.release()

    threading.Thread(target=search, daemon=True).start()

    def run() -> None:
        turn.release()
        done.acquire()
        if failed:
            raise failed[0]

    return run
