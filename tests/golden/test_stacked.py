from __future__ import annotations

import pytest

from lbgnas.genotype import published
from lbgnas.networks.counting import count_macs, count_parameters
from lbgnas.networks.stacked import StackedNetwork
from tests.golden import reference


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("golden_darts", "DARTS_V1"),
        ("golden_darts", "DARTS_V2"),
        ("golden_pc", "PC_DARTS_cifar"),
        ("golden_pc", "PC_DARTS_image"),
    ],
)
def test_network_equals_reference(float64, file, name, stem):
    key = {"cifar": f"evalnet.cifar.C16.L8.{name}", "imagenet": f"evalnet.imagenet.C16.L6.{name}"}[stem]
    expected = reference.golden(file)[key]
    genotype = published(name).experts[0]
    net = StackedNetwork(genotype, 8 if stem == "cifar" else 6, 16, 10, auxiliary=True, stem=stem)
    reference.fill(net)
    x = reference.images(0, size=32 if stem == "cifar" else 224)
    net.eval()
    logits, auxiliary = net(x)
    assert auxiliary is None
    reference.assert_summary(logits, expected["eval_logits"])
    net.train()
    logits, auxiliary = net(x)
    reference.assert_summary(logits, expected["train_logits"])
    reference.assert_summary(auxiliary, expected["train_aux"])


@pytest.mark.parametrize(
    ("name", "parameters", "with_head", "parameters_100", "macs", "imagenet", "imagenet_macs"),
    [
        ("DARTS_V1", 3_169_414, 3_645_840, 3_221_344, 500_987_520, 4_510_432, 505_864_704),
        ("DARTS_V2", 3_349_342, 3_825_768, 3_401_272, 528_359_040, 4_718_752, 529_911_552),
        ("PDARTS", 3_433_798, 3_910_224, 3_485_728, 532_174_464, 4_944_352, 542_819_328),
        ("PC_DARTS_cifar", 3_634_678, 4_111_104, 3_686_608, 556_670_592, 5_270_560, 571_137_408),
        ("PC_DARTS_image", 3_721_510, 4_197_936, 3_773_440, 570_466_944, 5_342_464, 581_627_328),
        ("NASNet", 3_830_950, 4_288_944, 3_895_840, 603_452_448, 5_564_320, 604_031_616),
        ("AmoebaNet", 3_145_078, 3_603_072, 3_184_048, 488_931_552, 4_627_360, 526_746_624),
    ],
)
def test_published_sizes(name, parameters, with_head, parameters_100, macs, imagenet, imagenet_macs):
    genotype = published(name).experts[0]
    net = StackedNetwork(genotype, 20, 36, 10, auxiliary=True)
    assert count_parameters(net) == parameters
    assert count_parameters(net, without=()) == with_head
    assert count_macs(net, 3, 32) == macs
    assert count_parameters(StackedNetwork(genotype, 20, 36, 100)) == parameters_100
    large = StackedNetwork(genotype, 14, 48, 1000, stem="imagenet")
    assert count_parameters(large) == imagenet
    assert count_macs(large, 3, 224) == imagenet_macs
