"""What the import leaves as it is in timm, and what it costs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import timm
from timm.models import save_for_hf

FUNCTIONS = """
import inspect, sys
import timm, timm.data, timm.layers, timm.models
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
print(len(before), [key for key in before if after.get(key) is not before[key]], after.keys() - before.keys())
"""


def test_the_import_changes_one_function_of_timm() -> None:
    """`get_model_args`, which gives other models what it gave before: see `test_saved_classes`."""
    done = subprocess.run([sys.executable, '-c', FUNCTIONS], capture_output=True, text=True, check=True)
    count, changed = done.stdout.split(maxsplit=1)
    assert changed == "[('timm.models._hub', 'get_model_args')] set()\n"
    assert int(count) > 1000


def test_the_import_is_quick() -> None:
    """No library that timm does not load, apart from small ones; a twentieth of the time that torch and timm take."""
    code = 'import timm, sys; before = set(sys.modules); import coatnet_zoo; print(*(set(sys.modules) - before))'
    done = subprocess.run([sys.executable, '-X', 'importtime', '-c', code], capture_output=True, text=True, check=True)
    roots = {name.partition('.')[0] for name in done.stdout.split()}
    assert roots <= {'coatnet_zoo', 'coatnet_zoo_command', 'einops', 'torch'}
    took = {name: int(us) for us, name in re.findall(r'(\d+) \| (timm|coatnet_zoo)\n', done.stderr)}
    assert took['coatnet_zoo'] < took['timm'] / 8


def test_the_models_of_timm_are_saved_as_before(tmp_path: Path) -> None:
    save_for_hf(timm.create_model('resnet10t', num_classes=5), tmp_path, safe_serialization=True)
    assert json.loads((tmp_path / 'config.json').read_text())['model_args']['num_classes'] == 5
