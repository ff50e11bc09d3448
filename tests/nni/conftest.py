"""These tests need NNI (extra nni); without it they are left out, as a whole. `make test-nni` runs them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest

if find_spec("nni") and find_spec("pytorch_lightning"):
    # Before any test module, for NNI's import warns.
    import_module("lbgnas.nni.host")
else:
    collect_ignore_glob = ["test_*.py"]

_HOSTS_OWN = (
    "ignore:.*LeafSpec.*",  # Lightning and this torch
    "ignore:Exception ignored in.*FileIO.*:pytest.PytestUnraisableExceptionWarning",  # NNI leaves its log file open
    "ignore:.*does not have many workers.*",
    "ignore:.*number of training batches.*",
    "ignore:.*Checkpoint directory.*",
    "ignore:.*is not a python type.*",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/nni/" in item.path.as_posix():
            for message in _HOSTS_OWN:
                item.add_marker(pytest.mark.filterwarnings(message))
