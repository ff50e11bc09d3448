"""A search inside a trial of NNI: what the trial reports afterwards is credited to the trial."""

from __future__ import annotations

import nni
import nni.trial
import pytest
from nni.runtime import trial_command_channel as channels

from lbgnas.nni import LBG
from tests.nni.small import Choices, evaluator, run


class Recorder(channels.TrialCommandChannel):
    """What the trial's own channel is given; stands where NNI's manager listens."""

    def __init__(self):
        self.metrics = []

    def receive_parameter(self):
        return {"parameter_id": 17, "parameters": {"num_experts": 2}}

    def send_metric(self, type, parameter_id, trial_job_id, sequence, value):
        self.metrics.append((type, parameter_id, sequence, value))


@pytest.fixture
def channel(monkeypatch):
    own = Recorder()
    before = channels.get_default_trial_command_channel()
    channels.set_default_trial_command_channel(own)
    monkeypatch.setattr(nni.trial, "_params", None)
    monkeypatch.setattr(nni.trial, "_intermediate_seq", 0)
    yield own
    channels.set_default_trial_command_channel(before)


def test_reports_before_and_after_a_search_go_to_the_same_trial(channel):
    given = nni.get_next_parameter()
    nni.report_intermediate_result(0.1)
    strategy = LBG(**given)
    run(Choices(), evaluator(epochs=2), strategy)
    found = float(strategy.oneshot_module.trainer.callback_metrics["val_acc"])
    nni.report_intermediate_result(0.2)
    nni.report_final_result(found)
    assert channel.metrics == [("PERIODICAL", 17, 0, 0.1), ("PERIODICAL", 17, 1, 0.2), ("FINAL", 17, 0, found)]
    assert nni.get_current_parameter() == {"num_experts": 2}


def test_a_search_that_fails_leaves_the_trial_as_it_was(channel):
    nni.get_next_parameter()
    with pytest.raises(ValueError, match="bfloat16"):
        run(Choices(), evaluator(precision="bf16-true"), LBG())
    nni.report_final_result(0.0)
    assert channel.metrics == [("FINAL", 17, 0, 0.0)]
