from __future__ import annotations

import pytest
import torch

from lbgnas.engine.result import searched_space
from lbgnas.genotype import published, published_names
from lbgnas.networks.counting import count_macs, count_parameters
from lbgnas.networks.stacked import StackedNetwork
from tests.golden import reference

NETS = [
    (file, key, key.split(".")[1], key.split(".")[-1])
    for file in ("golden_darts", "golden_pc", "golden_pdarts", "golden_dm")
    for key in reference.golden(file)
    if key.startswith("evalnet")
]


@pytest.mark.parametrize(("file", "key", "stem", "name"), NETS, ids=[net[1] for net in NETS])
def test_network_equals_reference(float64, file, key, stem, name):
    expected = reference.golden(file)[key]
    genotype = published(name)
    second_norm = stem == "cifar" or searched_space(genotype).auxiliary_head_norm
    cells = 8 if stem == "cifar" else 6
    net = StackedNetwork(genotype.experts[0], cells, 16, 10, 3, True, stem, second_norm)
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


def built(genotype, *size, **settings):
    with torch.device("meta"):
        return StackedNetwork(genotype, *size, **settings)


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
    net = built(genotype, 20, 36, 10, auxiliary=True)
    assert count_parameters(net) == parameters
    assert count_parameters(net, without=()) == with_head
    assert count_macs(net, 3, 32) == macs
    assert count_parameters(built(genotype, 20, 36, 100)) == parameters_100
    large = built(genotype, 14, 48, 1000, stem="imagenet")
    assert count_parameters(large) == imagenet
    assert count_macs(large, 3, 224) == imagenet_macs


# Parameters without the auxiliary head of 20 cells of 36 channels; with 10 or 100 classes as searched.
MINUS = {
    "cifar10_s0": (3_454_318, 3_634_246, 3_739_222, 3_437_038, 3_446_110),
    "cifar10_s1": (2_629_630, 2_734_606, 2_653_822),
    "cifar10_s2": (4_058_902, 4_418_758, 4_085_254),
    "cifar10_s3": (4_058_902, 4_418_758, 4_085_254),
    "cifar10_s4": (4_341_862, 4_341_862, 4_341_862),
    "cifar100_s0": (3_420_928, 3_473_848, 3_296_080, 3_407_104),
    "cifar100_s1": (3_005_776, 2_825_848, 2_794_096),
    "cifar100_s2": (4_250_368, 4_549_744, 3_360_880),
    "cifar100_s3": (3_720_736, 4_224_016, 4_137_184),
    "cifar100_s4": (4_033_936, 4_033_936, 4_033_936),
}
SMALL = {
    "cifar10_s0": (265_626, 278_842, 298_362, 265_114, 260_442),
    "cifar10_s1": (193_242, 212_762, 196_826),
    "cifar10_s2": (322_810, 349_242, 328_122),
    "cifar10_s3": (322_810, 349_242, 328_122),
    "cifar10_s4": (384_570, 384_570, 384_570),
}
"""The same with 8 cells of 16 channels."""


@pytest.mark.parametrize("group", MINUS)
def test_published_sizes_of_darts_minus(group):
    classes, head = (10, 476_426) if group.startswith("cifar10_") else (100, 545_636)
    for index, parameters in enumerate(MINUS[group]):
        genotype = published(f"{group}_{index}").experts[0]
        net = built(genotype, 20, 36, classes, auxiliary=True)
        assert count_parameters(net) == parameters
        assert count_parameters(net, without=()) == parameters + head
        if group in SMALL:
            net = built(genotype, 8, 16, classes, auxiliary=True)
            assert count_parameters(net) == SMALL[group][index]
            assert count_parameters(net, without=()) == SMALL[group][index] + 435_466


def test_every_genotype_of_darts_minus_is_measured():
    measured = {f"{group}_{index}" for group, sizes in MINUS.items() for index in range(len(sizes))}
    assert len(measured) == 33
    assert measured == {name for name in published_names() if name.startswith("cifar")}


@pytest.mark.parametrize(
    ("name", "head"), [("DARTS_V2", 1_260_776), ("PDARTS", 1_262_312), ("cifar10_s0_0", 1_262_312)]
)
def test_auxiliary_head_after_the_imagenet_stem(name, head):
    genotype = published(name)
    norm = searched_space(genotype).auxiliary_head_norm
    net = built(genotype.experts[0], 14, 48, 1000, auxiliary=True, stem="imagenet", auxiliary_norm=norm)
    assert count_parameters(net, without=()) - count_parameters(net) == head
