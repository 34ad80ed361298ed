"""The codes that implementations come from, where environment variables name checkouts of them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from paths import SUPPORT


def coatnet_pytorch() -> ModuleType:
    """The module of chinhsuanwu/coatnet-pytorch in the checkout `COATNET_PYTORCH`; skip the test without one."""
    folder = os.environ.get('COATNET_PYTORCH')
    if not folder:
        pytest.skip('set COATNET_PYTORCH to a checkout of chinhsuanwu/coatnet-pytorch to compare with its code')
    spec = importlib.util.spec_from_file_location('coatnet_pytorch', Path(folder) / 'coatnet.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for pickle
    spec.loader.exec_module(module)
    return module


def keras_cv_models(folder: Path, specs: dict[str, dict[str, Any]]) -> Path:
    """Save models of keras_cv_attention_models below a folder, see `keras_cv_peer.py`; skip the test without that code.

    `KERAS_CV_ATTENTION_MODELS` names a checkout and `KERAS_CV_PYTHON` an interpreter with tensorflow 2.15.
    """
    checkout, python = os.environ.get('KERAS_CV_ATTENTION_MODELS'), os.environ.get('KERAS_CV_PYTHON')
    if not checkout or not python:
        pytest.skip('set KERAS_CV_ATTENTION_MODELS and KERAS_CV_PYTHON (CONTRIBUTING.md) to compare with its code')
    environment = {**os.environ, 'PYTHONPATH': checkout, 'CUDA_VISIBLE_DEVICES': '', 'TF_CPP_MIN_LOG_LEVEL': '3'}
    command = [python, str(SUPPORT / 'keras_cv_peer.py'), str(folder), json.dumps(specs)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder
