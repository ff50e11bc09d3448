"""What the README and the docs show, run as it stands (with fewer epochs)."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from lbgnas import registry
from tests.small import ROOT


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_readme_example_runs(tmp_path, monkeypatch, capsys):
    import lbgnas.api as api
    from lbgnas.config import load_preset, merged

    fewer = {
        "search": {"limit": 40, "epochs": 1, "batch_size": 10, "network": {"cells": 3, "channels": 8}},
        "evaluation": {"epochs": 1, "batch_size": 16, "network": {"cells": 3, "channels": 4}},
    }

    def load_fewer(name, section, base=None):
        return merged(load_preset(name, section, base), fewer[section])

    monkeypatch.setattr(api, "load_preset", load_fewer)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md")
    assert len(code.strip().splitlines()) <= 10
    exec(compile(code, "README.md", "exec"), {})
    assert "top-1 routed" in capsys.readouterr().out
    assert list(tmp_path.rglob("expert0-normal.svg"))


@pytest.fixture
def _own_operations_forgotten():
    yield
    for name in registry.OWN:
        del registry.ABBREVIATIONS[name]
    registry.OWN.clear()


@pytest.mark.parametrize("page", ["docs/extending.md", "docs/bases.md", "docs/fairness.md", "docs/use.md"])
@pytest.mark.usefixtures("_own_operations_forgotten")
def test_docs_examples_run(page):
    found = blocks(page)
    assert found
    for code in found:
        exec(compile(code, page, "exec"), {})


def test_import_is_light():
    code = "import sys, lbgnas, lbgnas.config, lbgnas.genotype; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_names_are_attribute_errors():
    import lbgnas

    with pytest.raises(AttributeError, match="serch"):
        _ = lbgnas.serch
