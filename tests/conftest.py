"""Redirects huggingface_hub to a loopback server before its import, and has the fixtures that all tests share."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import HubServer

# huggingface_hub reads its environment when it is imported.
assert 'huggingface_hub' not in sys.modules, 'huggingface_hub was imported before the tests could redirect it'
_hub = HubServer().start()
_hf_home = tempfile.TemporaryDirectory(prefix='hf-home-')
for _name in [name for name in os.environ if name.startswith(('HF_', 'HUGGING', 'TRANSFORMERS_OFFLINE'))]:
    del os.environ[_name]
os.environ.update(
    HF_ENDPOINT=_hub.url,
    HF_HOME=_hf_home.name,
    HF_HUB_DISABLE_TELEMETRY='1',
    HF_HUB_DISABLE_PROGRESS_BARS='1',
    HF_HUB_DISABLE_XET='1',  # the loopback server speaks LFS
    NO_PROXY='127.0.0.1',
    no_proxy='127.0.0.1',
)

import coatnet_zoo  # noqa: E402, F401


def pytest_unconfigure() -> None:
    """Close the server and remove the cache of the session."""
    _hub.stop()
    _hf_home.cleanup()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """The Hub that huggingface_hub talks to, running, without repositories and with an empty log."""
    _hub.start()
    _hub.clear()
    yield _hub
    _hub.clear()
    _hub.start()


@pytest.fixture
def fresh_cache() -> Iterator[Path]:
    """An empty folder for `cache_dir`; it is removed at once because weights are large."""
    with tempfile.TemporaryDirectory(prefix='hf-cache-') as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
