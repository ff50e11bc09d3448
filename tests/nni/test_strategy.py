from __future__ import annotations

import pytest
import torch
from nni.nas.space import model_context

from lbgnas.errors import LbgnasError
from lbgnas.nni import LBG
from tests.nni.small import CLASSES, Choices, cells, evaluator, gate, initialised, run


@pytest.mark.parametrize("grouping", ["none", "lbg", "dalbg"])
def test_an_experiment_ends_in_an_architecture_for_each_expert(grouping):
    strategy = LBG(num_experts=2, grouping=grouping)
    done = run(Choices(), evaluator(), strategy)
    samples = done.export_top_models(top_k=5, formatter="dict")
    assert len(samples) == (1 if grouping == "none" else 2)
    for sample in samples:
        assert set(sample) == {"first", "second", "source"}
        with model_context(sample):
            network = Choices()
        assert network(torch.zeros(2, 3, 8, 8)).shape == (2, CLASSES)
        assert not list(network.simplify())


def test_architectures_are_those_of_the_largest_alphas():
    strategy = initialised(cells(), evaluator(), LBG(num_experts=2))
    with torch.no_grad():
        for index, expert in enumerate(strategy.supernet.experts):
            for name, value in expert.named_parameters():
                if "_arch_alpha" in name:
                    value.zero_()
                    value[1 if index else 0] = 3
    first, second = (model.sample for model in strategy.list_models())
    assert {value for key, value in first.items() if "/op_" in key} == {"skip_connect"}
    assert {value for key, value in second.items() if "/op_" in key} == {"sep_conv_3x3"}


def test_the_users_space_stays_as_it_is():
    space = Choices()
    before = {name: value.clone() for name, value in space.state_dict().items()}
    run(space, evaluator(), LBG())
    after = space.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_all_that_the_levels_move_moves_and_the_same_seed_gives_the_same_search():
    def searched():
        torch.manual_seed(0)
        strategy = LBG(grouping="dalbg", seed=1, gate_module=gate())
        run(Choices(), evaluator(), strategy)
        learner = strategy.oneshot_module.learner
        return strategy, learner

    (strategy, learner), (_, again) = searched(), searched()
    torch.manual_seed(0)
    start = LBG(grouping="dalbg", seed=1, gate_module=gate()).mutate_model(Choices())
    moved = dict(start.named_parameters())
    for name, value in strategy.supernet.named_parameters():
        assert not torch.equal(value, moved[name]), name
    assert learner.assignment_logits.shape == (8, 2)
    assert bool((learner.row_state.moves == 1).all())
    for one, other in zip(learner.experts.modules, again.experts.modules, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    assert torch.equal(learner.assignment_logits, again.assignment_logits)


def test_experts_start_apart_and_their_parameters_have_the_same_order():
    grouped = LBG(num_experts=2).mutate_model(cells())
    first, second = (dict(expert.named_parameters()) for expert in grouped.experts)
    assert list(first) == list(second)
    assert not torch.equal(first["stem.0.weight"], second["stem.0.weight"])


def test_validation_metrics_are_there_during_the_search():
    strategy = LBG()
    run(Choices(), evaluator(epochs=2), strategy)
    metrics = strategy.oneshot_module.trainer.callback_metrics
    assert {"val_acc", "val_loss", "train_acc", "train_loss", "lbg/gate_loss"} <= set(metrics)


@pytest.mark.parametrize("space", [cells, lambda: cells(width=(4, 8)), lambda: cells(num_cells=(3, 6))])
def test_the_class_count_is_the_evaluators(space):
    strategy = initialised(space(), evaluator(), LBG())
    assert strategy.supernet(torch.zeros(2, 3, 8, 8)).shape == (2, CLASSES)


def test_bad_settings_are_refused_in_one_sentence():
    for given, words in (
        ({"base": "dart"}, "did you mean 'darts'"),
        ({"grouping": "lgb"}, "unknown grouping 'lgb'"),
        ({"num_experts": 0}, "num_experts: 0 is not allowed"),
        ({"hypergradients": "exact"}, "did you mean 'hypergradient'"),
        ({"cost": "flop"}, "did you mean 'flops'"),
        ({"gate": {"scouts": 2}}, "no scouts"),
    ):
        with pytest.raises(LbgnasError, match=words):
            LBG(**given)
