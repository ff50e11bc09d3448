import json
import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lbgnas
from lbgnas.errors import LbgnasError
from lbgnas.genotype import (
    ABBREVIATIONS,
    BASES,
    GROUPINGS,
    OPERATIONS,
    CellGenotype,
    GateRecord,
    Genotype,
    check_gate_file,
    from_json,
    load,
    published,
    published_names,
    resolve,
    save,
    to_json,
)

# From the papers' own code: "operation:input" for each edge.
PUBLISHED = {
    "DARTS_V1": "normal s3:1 s3:0 | sk:0 s3:1 | sk:0 s3:1 | s3:0 sk:2 ; "
    "reduce mp:0 mp:1 | sk:2 mp:0 | mp:0 sk:2 | sk:2 ap:0",
    "DARTS_V2": "normal s3:0 s3:1 | s3:0 s3:1 | s3:1 sk:0 | sk:0 d3:2 ; "
    "reduce mp:0 mp:1 | sk:2 mp:1 | mp:0 sk:2 | sk:2 mp:1",
    "PDARTS": "normal sk:0 d3:1 | sk:0 s3:1 | s3:1 s3:3 | s3:0 d5:4 ; "
    "reduce ap:0 s5:1 | s3:0 d5:2 | mp:0 d3:1 | d3:1 d5:3",
    "PC_DARTS_cifar": "normal s3:1 sk:0 | s3:0 d3:1 | s5:0 s3:1 | ap:0 d3:1 ; "
    "reduce s5:1 mp:0 | s5:1 s5:2 | s3:0 s3:3 | s3:1 s3:2",
    "PC_DARTS_image": "normal sk:1 s3:0 | s3:0 sk:1 | s3:1 s3:3 | s3:1 d5:4 ; "
    "reduce s3:0 sk:1 | d5:2 mp:1 | s3:2 s3:1 | s5:0 s3:3",
    "NASNet": "normal s5:1 s3:0 | s5:0 s3:0 | ap:1 sk:0 | ap:0 ap:0 | s3:1 sk:1 ; "
    "reduce s5:1 s7:0 | mp:1 s7:0 | ap:1 s5:0 | sk:3 ap:2 | s3:2 mp:1, concat [4, 5, 6]",
    "AmoebaNet": "normal ap:0 mp:1 | s3:0 s5:2 | s3:0 ap:3 | s3:1 sk:1 | sk:0 ap:1, concat [4, 5, 6] ; "
    "reduce ap:0 s3:1 | mp:0 s7:2 | s7:0 ap:1 | mp:0 mp:1 | c7:0 s3:5, concat [3, 4, 6]",
}
GATE = GateRecord({"kind": "small-cnn", "channels": 3}, "gate.safetensors", "ab" * 32)


def two_experts():
    cells = (published("DARTS_V2").experts[0], published("AmoebaNet").experts[0])
    return Genotype("two", "darts", "lbg", "darts", cells, GATE, "a test", {"seed": 3, "lr": [0.1, None]})


@st.composite
def cells(draw):
    parts = []
    for _ in range(2):
        nodes = draw(st.integers(1, 5))
        sources = [draw(st.integers(0, i // 2 + 1)) for i in range(2 * nodes)]
        parts.append(tuple((draw(st.sampled_from(OPERATIONS)), source) for source in sources))
        states = st.integers(2, nodes + 1)
        parts.append(tuple(draw(st.lists(states, min_size=1, unique=True))))
    return CellGenotype(*parts)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=3,
)


@st.composite
def genotypes(draw):
    experts = tuple(draw(st.lists(cells(), min_size=1, max_size=3)))
    objects = st.dictionaries(st.text(), JSON, max_size=3)
    digest = st.text("0123456789abcdefABCDEF", min_size=64, max_size=64)
    gate = GateRecord(draw(objects), "gate.safetensors", draw(digest)) if len(experts) > 1 else None
    name = draw(st.text("abcXYZ 019_-é", min_size=1).filter(str.strip))
    base, grouping = draw(st.sampled_from(BASES)), draw(st.sampled_from(GROUPINGS))
    return Genotype(name, base, grouping, "darts", experts, gate, draw(st.text()), draw(objects))


@given(genotypes())
@settings(derandomize=True, max_examples=30, deadline=None)
def test_round_trip(genotype):
    text = to_json(genotype)
    again = from_json(text, "text")
    assert again == genotype
    assert to_json(again) == text


def test_published_names_and_contents():
    others = {name for name in published_names() if published(name).base == "darts-"}
    assert len(others) == 33
    assert set(published_names()) - others == set(PUBLISHED)
    for name, short in PUBLISHED.items():
        genotype = published(name)
        assert genotype.name == name
        assert [expert.short() for expert in genotype.experts] == [short]
        assert resolve(name).read_text() == to_json(genotype)
    assert {name: published(name).base for name in PUBLISHED} == {
        "DARTS_V1": "darts",
        "DARTS_V2": "darts",
        "PDARTS": "pdarts",
        "PC_DARTS_cifar": "pcdarts",
        "PC_DARTS_image": "pcdarts",
        "NASNet": "manual",
        "AmoebaNet": "manual",
    }


def test_published_is_found_in_an_installed_package_first(tmp_path, monkeypatch):
    genotype = two_experts()
    monkeypatch.setattr(lbgnas, "__file__", str(tmp_path / "lbgnas" / "__init__.py"))
    assert published_names() == ()
    save(genotype, tmp_path / "genotypes" / "beside.json")
    assert published_names() == ("beside",)
    save(genotype, tmp_path / "lbgnas" / "genotypes" / "inside.json")
    assert published_names() == ("inside",)


def test_unknown_published_name():
    with pytest.raises(LbgnasError, match=r"unknown published genotype 'DARTS_V3'.*did you mean 'DARTS_V"):
        published("DARTS_V3")


def test_counts_and_skips():
    expert = published("AmoebaNet").experts[0]
    assert (expert.normal_nodes, expert.reduce_nodes) == (5, 5)
    assert (expert.skips("normal"), expert.skips("reduce")) == (2, 0)
    assert published("DARTS_V2").experts[0].skips("reduce") == 3
    assert sorted(ABBREVIATIONS.values()) == ["ap", "c7", "d3", "d5", "mp", "no", "s3", "s5", "s7", "sk"]
    assert "none" not in OPERATIONS


def test_text_is_readable():
    lines = to_json(two_experts()).splitlines()
    assert '        ["sep_conv_3x3", 0], ["sep_conv_3x3", 1],' in lines
    assert '      "normal_concat": [2, 3, 4, 5],' in lines
    assert '    "architecture": {"channels": 3, "kind": "small-cnn"},' in lines


def test_key_order_of_provenance_does_not_matter():
    one = replace(two_experts(), provenance={"a": 1, "b": {"x": 1, "y": 2}})
    other = replace(two_experts(), provenance={"b": {"y": 2, "x": 1}, "a": 1})
    assert to_json(one) == to_json(other)


def test_save_is_atomic_and_leaves_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "genotype.json"
    save(two_experts(), path)
    assert load(path) == two_experts()
    before = path.read_bytes()

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(LbgnasError, match=r"genotype\.json: cannot be written \(No space left"):
        save(replace(two_experts(), name="other"), path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["genotype.json"]


def test_saving_what_cannot_be_loaded_is_refused(tmp_path):
    cell = two_experts().experts[0]
    wrong = CellGenotype((("none", 0), ("noise", 1)), (2,), cell.reduce, cell.reduce_concat)
    for genotype, sentence in (
        (replace(two_experts(), gate=None), r"'two': gate: is null, but 2 experts need a gate"),
        (
            replace(two_experts(), experts=(wrong, cell)),
            r"experts\[0\]\.normal\[0\]: unknown operation 'none'",
        ),
        (replace(two_experts(), experts=()), r"experts: must hold 1 to 64 experts, not 0"),
        (replace(two_experts(), provenance={"x": object()}), r"provenance\.x: cannot be written as JSON"),
        (replace(two_experts(), provenance={"x": float("nan")}), r"provenance\.x: cannot be written as JSON"),
    ):
        with pytest.raises(LbgnasError, match=sentence):
            save(genotype, tmp_path / "x.json")
    assert os.listdir(tmp_path) == []


def edit(path, value):
    """Return a function that sets data[path[0]][path[1]]... to the value."""

    def change(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


def drop(*path):
    def change(data):
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return change


CELL1 = ("experts", 1)
BROKEN = [
    (edit(["format"], "nni"), 'format: must be "lbgnas.genotype", not "nni"'),
    (drop("format"), 'format: must be "lbgnas.genotype", not null'),
    (edit(["version"], 2), "version: is 2, and this lbgnas reads version 1 only"),
    (edit(["version"], True), "version: is true, and"),
    (edit(["version"], "1"), 'version: is "1", and'),
    (edit(["bases"], "darts"), "unknown key 'bases'.*did you mean 'base'"),
    (drop("source"), "the key 'source' is missing"),
    (edit(["name"], ""), "name: must be one line of printable text"),
    (edit(["name"], "a\nb"), r'name: must be one line of printable text, not "a\\nb"'),
    (edit(["space"], 3), "space: must be text, not 3"),
    (edit(["base"], "dart"), "base: unknown base 'dart'.*did you mean 'darts'"),
    (edit(["grouping"], "lgb"), "grouping: unknown grouping 'lgb'.*did you mean 'lbg'"),
    (edit(["source"], None), "source: must be text, not null"),
    (edit(["provenance"], []), "provenance: must be an object, not a list of 0"),
    (edit(["experts"], {}), "experts: must be a list of experts, not an object of 0"),
    (edit(["experts"], []), "experts: must hold 1 to 64 experts, not 0"),
    (edit(["experts", 0], 7), r"experts\[0\]: must be an object with the keys normal, .*, not 7"),
    (drop(*CELL1, "reduce"), r"experts\[1\]: the key 'reduce' is missing"),
    (edit([*CELL1, "norml"], []), r"experts\[1\]: unknown key 'norml'.*did you mean 'normal'"),
    (edit([*CELL1, "normal"], []), r"experts\[1\]\.normal: must hold two pairs for each node, not 0"),
    (drop(*CELL1, "normal", 9), r"experts\[1\]\.normal: must hold two pairs for each node, not 9 in all"),
    (edit([*CELL1, "normal"], "s3"), r'experts\[1\]\.normal: must be a list of .* pairs, not "s3"'),
    (edit([*CELL1, "normal", 3], ["noise"]), r"normal\[3\]: must be a pair \[operation, input\]"),
    (edit([*CELL1, "normal", 3], "noise"), r"normal\[3\]: must be a pair .*, not \"noise\""),
    (
        edit([*CELL1, "normal", 3, 0], "sep_conv_3x"),
        r"experts\[1\]\.normal\[3\]: unknown operation 'sep_conv_3x'.*did you mean 'sep_conv_3x3'",
    ),
    (edit([*CELL1, "normal", 3, 0], "none"), r"normal\[3\]: unknown operation 'none'"),
    (edit([*CELL1, "normal", 3, 0], ["noise"]), r"normal\[3\]: must be text, not a list of 1"),
    (edit([*CELL1, "reduce", 3, 1], 3), r"reduce\[3\]: input 3 is out of the range 0 to 2 of node 3"),
    (edit([*CELL1, "reduce", 0, 1], -1), r"reduce\[0\]: input -1 is out of the range 0 to 1 of node 2"),
    (edit([*CELL1, "reduce", 0, 1], True), r"reduce\[0\]: the input must be a whole number, not true"),
    (edit([*CELL1, "reduce", 0, 1], 1.0), r"reduce\[0\]: the input must be a whole number, not 1\.0"),
    (edit([*CELL1, "normal_concat"], []), r"normal_concat: must name at least one node, from 2 to 6"),
    (edit([*CELL1, "normal_concat"], 4), r"normal_concat: must be a list of node numbers, not 4"),
    (edit([*CELL1, "normal_concat", 1], 7), r"normal_concat\[1\]: must be a node from 2 to 6, not 7"),
    (edit([*CELL1, "normal_concat", 1], 1), r"normal_concat\[1\]: must be a node from 2 to 6, not 1"),
    (edit([*CELL1, "normal_concat", 1], True), r"normal_concat\[1\]: must be a node .*, not true"),
    (edit([*CELL1, "reduce_concat", 1], 3), r"reduce_concat\[1\]: names node 3 a second time"),
    (edit(["gate"], None), "gate: is null, but 2 experts need a gate"),
    (edit(["gate"], "none"), "gate: must be an object with the keys architecture, weights, sha256"),
    (drop("experts", 1), "gate: must be null where there is one expert"),
    (edit(["gate", "sha"], ""), "gate: unknown key 'sha'.*did you mean 'sha256'"),
    (edit(["gate", "architecture"], "cnn"), 'gate.architecture: must be an object, not "cnn"'),
    (edit(["gate", "sha256"], "ab" * 31 + "a"), r"gate\.sha256: must be 64 hexadecimal digits"),
    (edit(["gate", "sha256"], "xy" * 32), r"gate\.sha256: must be 64 hexadecimal digits"),
    (edit(["gate", "sha256"], 5), r"gate\.sha256: must be text, not 5"),
    (edit(["gate", "weights"], "../gate.safetensors"), r"gate\.weights: must be the plain name of a file"),
    (edit(["gate", "weights"], "a\\gate.safetensors"), r"gate\.weights: must be the plain name of a file"),
    (edit(["gate", "weights"], "C:gate"), r"gate\.weights: must be the plain name of a file"),
    (edit(["gate", "weights"], ".."), r"gate\.weights: must be the plain name of a file"),
    (edit(["gate", "weights"], ""), r"gate\.weights: must be one line of printable text"),
]


@pytest.mark.parametrize(("change", "sentence"), BROKEN)
def test_broken_file(tmp_path, change, sentence):
    data = json.loads(to_json(two_experts()))
    change(data)
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(data))
    with pytest.raises(LbgnasError, match=f"(?s)genotype.json: .*{sentence}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is cut off at line 1, or not JSON"),
        ("[1]", "must hold a JSON object, not a list of 1"),
        ("null", "must hold a JSON object, not null"),
        ("{'a': 1}", "is not JSON at line 1 column 2"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice in one object"),
        ('{"a": NaN}', "NaN is not a finite number"),
        ('{"a": 1e999}', "1e999 is not a finite number"),
        ('{"a": ' + "9" * 5000 + "}", "is not usable JSON"),
        ("[" * 200_000, "is not usable JSON"),
    ],
)
def test_text_that_is_no_genotype(text, sentence):
    with pytest.raises(LbgnasError, match=f"^here: {sentence}"):
        from_json(text, "here")


def test_every_truncation_is_refused():
    text = to_json(two_experts()).rstrip()
    for length in range(len(text)):
        with pytest.raises(LbgnasError, match=r"^cut: "):
            from_json(text[:length], "cut")


def mutations(data, path=()):
    for junk in (None, True, 1, -1, 0.5, "x", [], {}, [[]], [None]):
        yield path, junk
    if isinstance(data, dict | list):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield from mutations(data[key], (*path, key))


def test_junk_anywhere_is_refused_or_read_but_never_crashes():
    text = to_json(two_experts())
    refused = 0
    for path, junk in list(mutations(json.loads(text))):
        data = json.loads(text)
        if path:
            edit(path, junk)(data)
        else:
            data = junk
        try:
            assert isinstance(from_json(json.dumps(data), "junk"), Genotype)
        except LbgnasError:
            refused += 1
    assert refused > 500


def test_files_that_cannot_be_read(tmp_path):
    save(two_experts(), tmp_path / "genotype.json")
    with pytest.raises(LbgnasError, match=r"genotyp\.json: no such file; did you mean .*/genotype\.json\?"):
        load(tmp_path / "genotyp.json")
    with pytest.raises(LbgnasError, match="no such file, for there is no folder"):
        load(tmp_path / "nowhere" / "genotype.json")
    with pytest.raises(LbgnasError, match="cannot be read: Is a directory"):
        load(tmp_path)
    with pytest.raises(LbgnasError, match=r"cannot be read: .*null byte"):
        load(tmp_path / "a\0b")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(LbgnasError, match="not UTF-8"):
        load(tmp_path / "binary.json")


def test_check_gate_file(tmp_path):
    weights = b"weights"
    gate = replace(GATE, sha256=sha256(weights).hexdigest().upper())
    genotype, path = replace(two_experts(), gate=gate), tmp_path / "genotype.json"
    with pytest.raises(LbgnasError, match=r"gate\.safetensors: no such file"):
        check_gate_file(path, genotype)
    (tmp_path / "gate.safetensors").write_bytes(weights)
    assert check_gate_file(path, genotype) == tmp_path / "gate.safetensors"
    (tmp_path / "gate.safetensors").write_bytes(weights + b"!")
    with pytest.raises(LbgnasError, match=r"gate\.safetensors: its SHA-256 begins with"):
        check_gate_file(path, genotype)
    with pytest.raises(LbgnasError, match="gate: is null"):
        check_gate_file(path, published("PDARTS"))


def test_resolve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(resolve("PDARTS")).name == "PDARTS"
    save(two_experts(), tmp_path / "mine.json")
    save(two_experts(), tmp_path / "bare")
    assert load(resolve("mine.json")) == load(resolve("bare")) == two_experts()
    with pytest.raises(LbgnasError, match=r"unknown genotype 'PDART'.*did you mean 'PDARTS'"):
        resolve("PDART")
    with pytest.raises(LbgnasError, match=r"mine2\.json: no such file; did you mean mine\.json"):
        resolve("mine2.json")
    with pytest.raises(LbgnasError, match="is a folder"):
        resolve(str(tmp_path))


def test_no_heavy_imports():
    heavy = ["torch", "numpy", "pydantic", "yaml", "graphviz"]
    code = f"import sys, lbgnas.genotype; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
