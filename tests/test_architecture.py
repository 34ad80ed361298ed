"""The packages import each other in one direction, only by their public API; the network is plain PyTorch."""

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

SOURCE = ROOT / 'src' / 'coatnet_zoo'
# By top-level module or package: what it may import.
_BASE = {'errors', 'files', 'version'}
_MODEL = _BASE | {'_timm', 'registry', 'hub', 'convert', 'network'}
IMPORTS = {
    **dict.fromkeys(['errors', 'files', 'version', '_timm', 'run', '__main__'], frozenset()),
    'registry': _BASE,
    'hub': _BASE | {'_timm', 'registry'},
    'convert': _BASE | {'_timm', 'registry', 'hub'},
    'network': _MODEL - {'hub'},
    **dict.fromkeys(['factory', 'inference', 'images'], _MODEL),
    'export': _MODEL | {'images'},
    'finetuning': _MODEL | {'factory', 'images'},
    'cli': _MODEL | {'factory', 'inference', 'images', 'export', 'finetuning', 'run'},
    '__init__': _MODEL | {'factory', 'inference', 'images', 'export', 'finetuning'},
}
# `coatnet-zoo list` needs `hub` without torch; this module loads torch and is imported by its file.
FILES = {'hub.publish'}


def imports(file: Path, package: Path) -> Iterator[str]:
    """The dotted names that a file imports, also inside functions; relative names begin with the package."""
    parts = file.relative_to(package).with_suffix('').parts
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ['coatnet_zoo', *parts[:-1]][: len(parts) + 1 - node.level] if node.level else []
            base = [*above, *(node.module or '').split('.')] if node.module else above
            # `from ..hub import publish` names a module, `from ..hub import pull` a public name.
            for alias in node.names:
                path = package.parent / Path(*base, alias.name)
                yield '.'.join([*base, alias.name] if path.with_suffix('.py').is_file() or path.is_dir() else base)


def violations(package: Path) -> list[str]:
    """The wrong imports of a package, one line for each."""
    found = []
    for file in sorted(package.rglob('*.py')):
        name, own = str(file.relative_to(package)), file.relative_to(package).with_suffix('').parts[0]
        for dotted in imports(file, package):
            top, *rest = dotted.split('.')
            if top == 'timm' and any(part.startswith('_') for part in rest) and own != '_timm':
                found.append(f'{name} imports {dotted}, which is private; only _timm.py may')
            target = rest[0] if rest else '__init__'
            if top != 'coatnet_zoo' or target == own:
                continue
            if target not in IMPORTS[own]:
                found.append(f'{name} imports {dotted}: {own} must not import {target}')
            elif len(rest) > 1 and '.'.join(rest) not in FILES:
                found.append(f'{name} imports {dotted} instead of the public API of {target}')
    return found


def circles(package: Path) -> list[str]:
    """Modules that import themselves through other modules."""
    graph: dict[str, set[str]] = {}
    for file in package.rglob('*.py'):
        name = '.'.join(['coatnet_zoo', *file.relative_to(package).with_suffix('').parts])
        graph[name] = {i for i in imports(file, package) if i.startswith('coatnet_zoo.')}
    found = []
    for name in sorted(graph):
        reached, ahead = set(), graph[name]
        while ahead := ahead - reached:
            reached |= ahead
            ahead = set().union(*(graph.get(each, set()) for each in ahead))
        found += [name] if name in reached else []
    return found


def test_imports_run_in_one_direction() -> None:
    assert violations(SOURCE) == []
    assert circles(SOURCE) == []


def test_every_package_is_listed() -> None:
    packages = {p.name if p.is_dir() else p.stem for p in SOURCE.iterdir() if p.is_dir() or p.suffix == '.py'}
    assert packages - {'__pycache__', 'weights'} == set(IMPORTS)


@pytest.mark.parametrize(
    'package, line, complaint',
    [
        ('registry', 'from ..network import CoAtNet', 'registry must not import network'),
        ('convert', 'def f():\n    from ..network import CoAtNet', 'convert must not import network'),
        ('hub', 'from coatnet_zoo.network import CoAtNet', 'hub must not import network'),
        ('factory', 'from .. import cli', 'factory must not import cli'),
        ('factory', 'from ..convert.adapters import keras_cv', 'instead of the public API of convert'),
        ('network', 'import timm.models._builder', 'only _timm.py may'),
    ],
)
def test_a_wrong_import_is_found(package: str, line: str, complaint: str, tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / 'coatnet_zoo')
    (tmp_path / 'coatnet_zoo' / package / 'planted.py').write_text(line)
    (found,) = (each for each in violations(tmp_path / 'coatnet_zoo') if 'planted.py' in each)
    assert found.startswith(f'{package}/planted.py imports') and complaint in found


def test_a_circle_is_found(tmp_path: Path) -> None:
    for name, following in ('ab', 'bc', 'ca', 'da'):
        (tmp_path / f'{name}.py').write_text(f'from .{following} import f\n')
    assert circles(tmp_path) == ['coatnet_zoo.a', 'coatnet_zoo.b', 'coatnet_zoo.c']


def test_the_network_is_plain_pytorch() -> None:
    files = sorted((SOURCE / 'network').glob('*.py'))
    assert 0 < len(files) <= 8
    for file in files:
        text = file.read_text(encoding='utf-8')
        assert not re.findall(r'torch\.ops\.mkldnn|torch\._C|register_module_\w*hook', text), file
        assert not {'ctypes', 'gc', 'threading', 'torch._C'} & set(imports(file, SOURCE)), file


def test_files_say_what_they_are_for() -> None:
    for file in [*ROOT.glob('src/**/*.py'), *ROOT.glob('tests/**/*.py'), *ROOT.glob('scripts/**/*.py')]:
        assert ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))), f'{file} does not say what it is for'


def test_scripts_use_nothing_private_of_timm() -> None:
    for file in ROOT.glob('scripts/**/*.py'):
        for dotted in imports(file, ROOT / 'scripts'):
            assert not dotted.startswith('timm.') or '._' not in dotted, f'{file} imports {dotted}'
