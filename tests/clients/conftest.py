"""Keeps the clients out of `make test`, which has some of them; exporting takes long."""

import importlib.util

import pytest


@pytest.fixture(scope='session', autouse=True)
def _clients() -> None:
    if importlib.util.find_spec('transformers') is None:
        pytest.skip('the extra `clients` is not installed; `make clients` installs it')
