from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import time

import pytest
import torch

from lbgnas.engine.checkpoint import load_checkpoint
from tests.small import EVALUATE, SEARCH, assert_same, command, metrics, run


def test_a_search_leaves_what_it_promises(whole):
    folder, output, _ = whole
    names = {"config.yaml", "environment.json", "split.json", "metrics.jsonl", "checkpoint.pt", "genotype.json"}
    assert names | {"tensorboard", "gate.safetensors"} <= {path.name for path in (folder / "search").iterdir()}
    records = metrics(folder / "search")
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert records[0]["architecture_learned"] is False
    assert records[2]["architecture_learned"] is True
    assert set(records[2]["losses"]) == {"gate_loss", "expert_loss", "validation_loss", "adaptation_loss"}
    assert abs(sum(records[2]["group_share"]) - 1) < 1e-6
    assert len(records[2]["genotypes"]) == len(records[2]["skips"]) == 2
    assert "coloured-digits: 40 images of 8 pixels, 2 classes, attribute colour" in output
    assert re.search(r"epoch 3/3 \| loss gate .* \| val acc .* groups .* skips", output)


def test_an_evaluation_leaves_what_it_promises(whole):
    folder, _, output = whole
    results = json.loads((folder / "evaluate" / "results.json").read_text())
    assert results["samples"] == 40
    parts = {f"expert {k}" for k, expert in enumerate(results["experts"]) if expert["test_share"]}
    assert set(results["fairness"]) == {"routed", "mixture"} | parts
    assert len(results["experts"]) == 2
    assert abs(sum(expert["test_share"] for expert in results["experts"]) - 1) < 1e-6
    for words in ("top-1 routed", "soft mixture", "worst_group_accuracy", "synthetic", "multiply-accumulates"):
        assert words in output


def test_an_evaluation_ends_with_the_audit_that_the_tool_makes_of_its_predictions(whole, tmp_path):
    folder, _, output = whole
    results = json.loads((folder / "evaluate" / "results.json").read_text())
    columns = ["--label", "label", "--prediction", "prediction", "--sensitive", "colour", "--score", "score"]
    done = run("audit", folder / "evaluate" / "predictions.csv", *columns, "--by", "expert", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "predictions-audit.csv").open() as file:
        mine = {(row["part"], row["metric"]): row for row in csv.DictReader(file) if not row["label"]}
    for part, own in (("all", "routed"), *((f"expert {k}", f"expert {k}") for k in (0, 1))):
        for name, value in results["fairness"].get(own, {}).get("metrics", {}).items():
            row, interval = mine[part, name], results["fairness"][own]["intervals"][name]
            for key, wanted in (("value", value), ("low", interval["low"]), ("high", interval["high"])):
                assert (row[key] == "") if wanted is None else float(row[key]) == pytest.approx(wanted, abs=1e-12)
    for suffix in ("md", "csv", "svg"):
        assert (folder / "evaluate" / f"audit.{suffix}").stat().st_size > 500
    assert "audit.svg" in output
    assert "## mixture" in (folder / "evaluate" / "audit.md").read_text()


def test_an_evaluation_can_be_used_on_images_and_exported(whole, tmp_path):
    from tests import layouts

    folder, _, _ = whole
    for n in range(3):
        layouts.image(tmp_path / "images" / f"{n}.png", n)
    done = run("predict", "--run", folder / "evaluate", "--images", tmp_path / "images", "--out", tmp_path / "p.csv")
    assert done.returncode == 0, done.stderr
    assert "3 images" in done.stdout
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["0.png", "1.png", "2.png"]
    assert all(0 < float(row["confidence"]) <= 1 and row["expert"] in "01" for row in rows)
    done = run("export", "--run", folder / "evaluate", "--out", tmp_path, "--formats", "pt2")
    assert done.returncode == 0, done.stderr
    assert "model.pt2: largest difference from the model 0.0e+00" in done.stdout
    for tool, message in (("predict", "--images: needed"), ("export", "holds no trained model")):
        done = run(tool, "--run", folder / "search")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr


def test_seeds_repeat(whole, tmp_path):
    folder, _, _ = whole
    again = run("search", "--base", "pcdarts", "--grouping", "dalbg", *SEARCH, "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert metrics(tmp_path / "again") == metrics(folder / "search")


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_random_moments_change_no_bit_of_a_search(whole, tmp_path, seed):
    folder, _, _ = whole
    place = tmp_path / "run"
    clock = random.Random(seed)
    arguments = ["--base", "pcdarts", "--grouping", "dalbg", *SEARCH, "--out", place]
    kills = 0
    for _ in range(40):
        resumable = (place / "config.yaml").exists()
        process = subprocess.Popen(
            command("search", *(["--resume", place] if resumable else arguments)),
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            # Start-up takes most of the time; later attempts wait longer so that the run gets on.
            _, error = process.communicate(timeout=clock.uniform(4, 9 + 2 * kills))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            if not (place / "config.yaml").exists() and place.exists():
                for path in sorted(place.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
            continue
        assert process.returncode == 0, error
        break
    assert kills >= 1
    assert metrics(place) == metrics(folder / "search")
    assert (place / "gate.safetensors").read_bytes() == (folder / "search" / "gate.safetensors").read_bytes()
    assert (place / "genotype.json").read_text() == (folder / "search" / "genotype.json").read_text()
    states = [load_checkpoint(path / "checkpoint.pt", "search", {}) for path in (place, folder / "search")]
    assert_same(*states)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_inside_an_epoch_changes_no_bit_of_an_evaluation(whole, tmp_path, number):
    folder, _, _ = whole
    genotype, place = folder / "search" / "genotype.json", tmp_path / "run"
    process = subprocess.Popen(
        command("evaluate", "--genotype", genotype, *EVALUATE, "--out", place),
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not (place / "metrics.jsonl").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    if process.returncode:  # it may have ended first
        assert process.returncode == 128 + number
        assert f"--resume {place}" in error
        again = run("evaluate", "--resume", place)
        assert again.returncode == 0, again.stderr
    expected = json.loads((folder / "evaluate" / "results.json").read_text())
    assert json.loads((place / "results.json").read_text()) == expected
    for index in range(2):
        name = f"expert{index}.safetensors"
        assert (place / name).read_bytes() == (folder / "evaluate" / name).read_bytes()


BAD = [
    ("search", ["--base", "dart"], "base: unknown base 'dart'.*did you mean 'darts'"),
    ("search", ["--bse", "darts"], "unknown flag '--bse'.*did you mean '--base'"),
    ("search", ["--num-experts", "9"], "num_experts: '9' is not allowed"),
    ("search", ["--gate.rate", "nan"], "gate.rate: 'nan' is not allowed"),
    ("search", ["--preset", "quik"], "unknown preset 'quik'.*did you mean 'quick'"),
    ("search", ["--data", "fashon-mnist"], "unknown data set 'fashon-mnist'.*did you mean 'fashion-mnist'"),
    ("search", ["--resume", "nowhere"], "--resume nowhere: no run is there"),
    ("search", ["--resume", "nowhere", "--seed", "1"], "--seed: a resumed run keeps its own settings"),
    ("search", ["--order", "reference", "--grouping", "lbg"], "order: reference is the bases' own step"),
    ("search", ["--base", "pcdarts", "--network.channels", "12"], "multiple of 8 .* the nearest is (8|16)"),
    ("evaluate", [], "--genotype: needed"),
    ("evaluate", ["--genotype", "DARTS_V3"], "DARTS_V3.*DARTS_V"),
    ("visualize", ["--genotype", "DARTS_V3"], "DARTS_V3.*DARTS_V"),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "arguments", "sentence"), BAD, ids=[" ".join(b[1]) or b[0] for b in BAD])
def test_bad_input_is_refused_in_one_sentence(tmp_path, tool, arguments, sentence):
    done = run(tool, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(sentence, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_configs_with_faults_name_file_and_key(tmp_path):
    config = tmp_path / "mine.yaml"
    for text, sentence in (
        ("epoch: 3", "mine.yaml: unknown key 'epoch'.*did you mean 'epochs'"),
        ("gate: {rat: 1}", "mine.yaml: gate: unknown key 'rat'.*did you mean 'rate'"),
        ("epochs: [", "mine.yaml: cannot be read as YAML"),
        ("- a", "mine.yaml: holds no mapping"),
    ):
        config.write_text(text)
        done = run("search", "--config", config)
        assert done.returncode == 2
        assert re.search(sentence, done.stderr), done.stderr


def test_damaged_and_foreign_checkpoints_are_refused(whole, tmp_path):
    import shutil

    folder, _, _ = whole
    for name, damage, sentence in (
        ("cut", lambda p: p.write_bytes(p.read_bytes()[:-5000]), "checkpoint is broken"),
        ("text", lambda p: p.write_text("hello"), "checkpoint is broken"),
        ("version", lambda p: torch.save({"format": "lbgnas.checkpoint", "version": 9}, p), "is of version 9"),
        (
            "kind",
            lambda p: shutil.copy(folder / "evaluate" / "checkpoint.pt", p),
            "belongs to a run of kind 'evaluation'",
        ),
    ):
        place = tmp_path / name
        shutil.copytree(folder / "search", place)
        damage(place / "checkpoint.pt")
        done = run("search", "--resume", place)
        assert done.returncode == 2
        assert re.search(sentence, done.stderr), done.stderr
        assert "Traceback" not in done.stderr
    place = tmp_path / "other base"
    shutil.copytree(folder / "search", place)
    config = place / "config.yaml"
    config.write_text(config.read_text().replace("base: pcdarts", "base: darts"))
    done = run("search", "--resume", place)
    assert "was made with base 'pcdarts', this run has 'darts'" in done.stderr
    config.write_text((folder / "search" / "config.yaml").read_text().replace("limit: 40", "limit: 44"))
    done = run("search", "--resume", place)
    assert "the data changed since this run began" in done.stderr


def test_a_checkpoint_runs_nothing_when_loaded(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    path = tmp_path / "checkpoint.pt"
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    from lbgnas.errors import LbgnasError

    with pytest.raises(LbgnasError, match="broken or holds more than data"):
        load_checkpoint(path, "search", {})
    torch.save({"format": "lbgnas.checkpoint", "x": Evil()}, path)
    with pytest.raises(LbgnasError, match="broken or holds more than data"):
        load_checkpoint(path, "search", {})
    assert not (tmp_path / "written").exists()
    (tmp_path / "written").unlink(missing_ok=True)


def test_help_is_fast_and_imports_no_torch():
    for tool in ("search", "evaluate", "visualize", "audit", "train_groups", "predict", "export"):
        code = (
            "import sys, runpy\n"
            f"sys.argv = ['{tool}.py', '--help']\n"
            f"try: runpy.run_path('tools/{tool}.py', run_name='__main__')\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            "assert 'torch' not in sys.modules and 'tensorboard' not in sys.modules\n"
        )
        import sys

        from tests.small import ROOT

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert any(flag in done.stdout for flag in ("--genotype", "--base", "--prediction", "--method", "--run"))
