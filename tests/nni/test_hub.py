"""NNI's hub spaces, one step each, as small as they get."""

from __future__ import annotations

import pytest
import torch
from nni.nas.hub.pytorch import DARTS, ENAS, AmoebaNet, NasBench201, NASNet
from nni.nas.space import model_context

from lbgnas.engine.result import load_gate
from lbgnas.errors import LbgnasError
from lbgnas.genotype import load
from lbgnas.nni import LBG, from_nni, to_nni, with_classes
from tests.nni.small import CLASSES, Choices, evaluator, initialised, run


def test_nas_bench_201():
    done = run(NasBench201(4, 1), evaluator(count=4), LBG())
    for sample in done.export_top_models(top_k=2, formatter="dict"):
        assert sorted(sample) == [f"cell/{i}_{j}" for i in range(3) for j in range(i + 1, 4)]
        with model_context(sample):
            assert with_classes(NasBench201(4, 1), CLASSES)(torch.zeros(2, 3, 8, 8)).shape == (2, CLASSES)


@pytest.mark.parametrize("space", [NASNet, AmoebaNet, ENAS])
def test_spaces_with_loose_ends(space):
    """Relaxed, passed, read off and rebuilt; their cells are searched as if all nodes were joined, as in NNI."""
    strategy = initialised(space(width=4, num_cells=3, dataset="cifar"), evaluator(), LBG(num_experts=1))
    assert strategy.supernet(torch.zeros(2, 3, 8, 8)).shape == (2, CLASSES)
    (model,) = strategy.list_models()
    assert len(model.sample) == 2 * 5 * 2 * 2
    with model_context(model.sample):
        assert space(width=4, num_cells=3, dataset="cifar")(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    strategy = initialised(DARTS(width=4, num_cells=3, dataset="cifar"), evaluator(), LBG(grouping="dalbg"))
    return strategy, strategy.save_genotype(tmp_path_factory.mktemp("genotype"))


def test_a_genotype_file_of_a_search_through_nni(searched):
    strategy, path = searched
    genotype = load(path)
    samples = [model.sample for model in strategy.list_models()]
    assert [to_nni(cell) for cell in genotype.experts] == samples
    assert [from_nni(sample) for sample in samples] == list(genotype.experts)
    assert (genotype.base, genotype.grouping, genotype.space) == ("darts", "dalbg", "darts")
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(load_gate(path, genotype)(images), strategy.supernet.gate(images))


def test_the_file_is_evaluated_as_one_of_our_own(searched, tmp_path):
    import subprocess
    import sys

    given = "--data coloured-digits --limit 60 --epochs 1 --layers 3 --channels 4 --batch-size 16"
    command = [sys.executable, "tools/evaluate.py", "--genotype", str(searched[1]), "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, *given.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "results.json").exists()


def test_other_families_have_no_genotype_file(tmp_path):
    with pytest.raises(LbgnasError, match="the key 'first' is not of a DARTS space"):
        initialised(Choices(), evaluator(), LBG()).save_genotype(tmp_path)
