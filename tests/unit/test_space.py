"""Search spaces as files: what is read, and what is refused with file and key."""

from __future__ import annotations

import numpy as np
import pytest

from lbgnas.bases.base import find_base
from lbgnas.bases.pdarts import prune
from lbgnas.errors import LbgnasError
from lbgnas.space import SearchSpace, load_space, space_names, space_text

GOOD = "name: mine\nnodes: 2\nconcat: [2, 3]\noperations: [skip_connect, sep_conv_3x3]\n"


@pytest.mark.parametrize("name", space_names())
def test_shipped_spaces_are_named_like_their_files(name):
    space = load_space(name)
    assert space.name == name
    assert (space.nodes, space.num_edges, space.concat) == (4, 14, (2, 3, 4, 5))
    assert space.reductions == ("1/3", "2/3")


def test_s1_has_other_operations_on_each_edge():
    space = load_space("darts-minus-s1")
    assert space.operations["normal"][5] == ("max_pool_3x3", "skip_connect")
    assert space.operations["normal"][13] == ("dil_conv_3x3", "dil_conv_5x5")
    assert space.operations["reduce"][6] == ("max_pool_3x3", "sep_conv_3x3")
    assert set(space.widths("normal")) == set(space.widths("reduce")) == {2}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (GOOD.replace("sep_conv_3x3", "sep_conv_3x4"), r"operations.normal\[0\].*'sep_conv_3x4'.*'sep_conv_3x3'"),
        (GOOD.replace("skip_connect", "sep_conv_3x3"), "listed twice"),
        (GOOD.replace("skip_connect, sep_conv_3x3", "none"), "at least one operation other than none"),
        (GOOD.replace("[skip_connect, sep_conv_3x3]", "[[skip_connect], [skip_connect]]"), "2 edges given.*have 5"),
        (GOOD.replace("[2, 3]", "[2, 4]"), r"concat: states must lie in 2\.\.3"),
        (GOOD.replace("[2, 3]", "[2, 2]"), "concat: a state stands twice"),
        (GOOD + "reductions: [1/3, 4/3]", "reductions: 4/3 must be at least 0 and below 1"),
        (GOOD + "reductions: [third]", "reductions: 'third' is no fraction such as 1/3"),
        (GOOD + "reductions: []", "reductions: .*at least 1"),
        (GOOD + "auxiliary_skip: conv1", "auxiliary_skip: .*'skip'.*'conv'"),
        (GOOD + "partial_channel: 4", "unknown key 'partial_channel'.*did you mean 'partial_channels'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(LbgnasError, match=rf"^{path}: .*{sentence}"):
        load_space(str(path))


def test_a_space_survives_its_dump(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "reductions: [1/2]\nstem: imagenet\n")
    space = load_space(str(path))
    assert SearchSpace(**space.model_dump(mode="json")) == space
    path.write_text(space_text(space))
    assert load_space(str(path)) == space
    assert space.with_auxiliary_skip(True).auxiliary_skip == "skip"
    assert space.with_auxiliary_skip(True).with_auxiliary_skip(False) == space


def test_edges_of_unequal_length_are_pruned_and_read_off():
    operations = [
        ["none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"],
        ["skip_connect"],
        ["sep_conv_3x3", "dil_conv_3x3"],
        ["skip_connect", "none"],
        ["avg_pool_3x3", "sep_conv_5x5", "none"],
    ]
    space = SearchSpace(name="mine", nodes=2, concat=(2, 3), operations=operations)
    assert space.architecture_shapes == {"alphas_normal": (5, 4), "alphas_reduce": (5, 4)}
    alphas = np.tile(np.array([4.0, 3.0, 2.0, 9.0]), (5, 1))
    values = {"alphas_normal": alphas, "alphas_reduce": -alphas}
    left = prune(space, values, {"normal": 2, "reduce": 3})
    assert left.operations["normal"] == (
        ("none", "sep_conv_3x3"), ("skip_connect",), ("sep_conv_3x3", "dil_conv_3x3"), ("skip_connect", "none"),
        ("avg_pool_3x3", "sep_conv_5x5"),
    )  # fmt: skip
    assert left.operations["reduce"][0] == ("none", "max_pool_3x3", "skip_connect")
    assert left.widths("reduce") == (3, 1, 2, 2, 3)
    for derive in (find_base("darts").derive, find_base("pdarts").derive):
        cell = derive(space, values)
        assert set(cell.normal[:2]) == {("sep_conv_3x3", 0), ("skip_connect", 1)}
        assert set(cell.normal[2:]) == {("sep_conv_3x3", 0), ("skip_connect", 1)}
        limited = derive(space, values, max_skips=0)
        assert set(limited.normal[:2]) == {("sep_conv_3x3", 0), ("skip_connect", 1)}, "that edge has nothing else"
        assert ("avg_pool_3x3", 2) in limited.normal[2:]
