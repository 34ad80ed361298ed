"""What the import leaves as it is in timm, and what it costs."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
from timm.models import save_for_hf

CODE = """
import inspect, json, sys
import timm, timm.data, timm.layers, timm.models
loaded = set(sys.modules)
modules = {name: module for name, module in sys.modules.items() if name.partition('.')[0] == 'timm'}
def functions():
    found = {}
    for module in modules:
        for name, value in vars(modules[module]).items():
            if callable(value):
                found[module, name] = value
            if inspect.isclass(value) and value.__module__ == module:
                found |= {(module, name, key): inner for key, inner in vars(value).items() if callable(inner)}
    return found
before = functions()
import coatnet_zoo
after = functions()
facts = dict(
    count=len(before), changed=[key for key in before if after.get(key) is not before[key]],
    added=list(after.keys() - before.keys()), imported=list(set(sys.modules) - loaded),
    registered=timm.is_model('coatnet_1'),
)
from coatnet_zoo import *
facts['public'] = explain_image.__name__ == 'explain_image' and {*coatnet_zoo.__all__} <= {*dir(coatnet_zoo)}
facts['name of a command'] = hasattr(coatnet_zoo, 'explain')
print(json.dumps({**facts, 'extras': list({'matplotlib', 'sklearn', 'cv2', 'onnx'} & set(sys.modules))}))
"""


@pytest.fixture(scope='module')
def fresh() -> tuple[dict[str, Any], dict[str, int]]:
    """What a new process says of its import, and the microseconds that timm and this package took."""
    command = [sys.executable, '-X', 'importtime', '-c', CODE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took = {name: int(us) for us, name in re.findall(r'(\d+) \| (timm|coatnet_zoo)\n', done.stderr)}
    return json.loads(done.stdout), took


def test_the_import_changes_one_function_of_timm(fresh: tuple) -> None:
    """`get_model_args`, which gives other models what it gave before: see `test_saved_classes`."""
    facts, _ = fresh
    assert (facts['changed'], facts['added']) == ([['timm.models._hub', 'get_model_args']], [])
    assert facts['count'] > 1000


def test_the_import_is_quick(fresh: tuple) -> None:
    """No library that timm does not load, apart from small ones; a twentieth of the time that torch and timm take."""
    facts, took = fresh
    roots = {name.partition('.')[0] for name in facts['imported']}
    assert roots <= {'coatnet_zoo', 'coatnet_zoo_command', 'einops', 'torch'}
    assert took['coatnet_zoo'] < took['timm'] / 8


def test_the_import_registers_the_models_alone(fresh: tuple) -> None:
    """The public names are imported at first use; none of them needs an extra."""
    facts, _ = fresh
    assert facts['registered'] and 'coatnet_zoo.images' not in facts['imported']
    assert facts['public'] and not facts['name of a command'] and facts['extras'] == []


def test_the_models_of_timm_are_saved_as_before(tmp_path: Path) -> None:
    save_for_hf(timm.create_model('resnet10t', num_classes=5), tmp_path, safe_serialization=True)
    assert json.loads((tmp_path / 'config.json').read_text())['model_args']['num_classes'] == 5
