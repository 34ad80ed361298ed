"""The packages import each other in one direction, and only through the `__init__.py` of each package."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

SOURCE = ROOT / 'src' / 'coatnet_zoo'
# By top-level module or by package: what it may import.
_BASE = {'errors', 'files', 'slow', 'version'}
_DATA = _BASE | {'registry'}
_MODEL = _DATA | {'_timm', 'hub', 'convert', 'network'}
IMPORTS = {
    'errors': set(),
    'files': set(),
    'slow': set(),
    'version': set(),
    '_timm': set(),
    'run': set(),
    '__main__': set(),
    'registry': _BASE,
    'hub': _DATA | {'_timm'},
    'convert': _DATA | {'hub'},
    'network': _DATA | {'_timm', 'convert'},
    'factory': _MODEL,
    'inference': _MODEL,
    'images': _MODEL,
    'export': _MODEL | {'images'},
    'cli': _MODEL | {'factory', 'inference', 'images', 'export', 'run'},
    '__init__': _MODEL | {'factory', 'inference', 'images', 'export'},
}
# `coatnet-zoo list` needs `hub` without torch; these modules load torch and are imported by their files.
FILES = {'hub.folder', 'hub.publish'}


def imports(file: Path, package: Path) -> Iterator[str]:
    """The dotted names that a file imports, also inside functions; relative names begin with the package."""
    parts = file.relative_to(package).with_suffix('').parts
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ['coatnet_zoo', *parts[:-1]][: len(parts) + 1 - node.level] if node.level else []
            base = [*above, *(node.module or '').split('.')] if node.module else above
            # `from ..hub import folder` names a module, `from ..hub import pull` a public name.
            for alias in node.names:
                is_module = (package.parent / Path(*base, alias.name)).with_suffix('.py').is_file()
                is_room = (package.parent / Path(*base, alias.name)).is_dir()
                yield '.'.join([*base, alias.name] if is_module or is_room else base)


def violations(package: Path) -> list[str]:
    """The wrong imports of a package, one line for each."""
    found = []
    for file in sorted(package.rglob('*.py')):
        name = str(file.relative_to(package))
        room = file.relative_to(package).with_suffix('').parts[0]
        for dotted in imports(file, package):
            top, *rest = dotted.split('.')
            if top != 'coatnet_zoo':
                if top == 'timm' and any(part.startswith('_') for part in rest) and room != '_timm':
                    found.append(f'{name} imports {dotted}, which is private; only _timm.py may')
                continue
            target = rest[0] if rest else '__init__'
            if target == room:
                continue
            if target not in IMPORTS[room]:
                found.append(f'{name} imports {dotted}: {room} must not import {target}')
            elif len(rest) > 1 and '.'.join(rest) not in FILES:
                found.append(f'{name} imports {dotted} instead of the public API of {target}')
    return found


def circles(package: Path) -> list[str]:
    """Modules that import themselves through other modules of their room."""
    graph: dict[str, set[str]] = {}
    for file in package.rglob('*.py'):
        name = '.'.join(['coatnet_zoo', *file.relative_to(package).with_suffix('').parts])
        graph[name] = {i for i in imports(file, package) if i.startswith('coatnet_zoo.')}

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        for following in graph.get(start, set()) - seen:
            seen.add(following)
            if following == goal or reaches(following, goal, seen):
                return True
        return False

    return [name for name in sorted(graph) if reaches(name, name, set())]


def test_imports_run_in_one_direction() -> None:
    assert violations(SOURCE) == []
    assert circles(SOURCE) == []


def test_every_package_is_listed() -> None:
    rooms = {p.name if p.is_dir() else p.stem for p in SOURCE.iterdir() if p.is_dir() or p.suffix == '.py'}
    assert rooms - {'__pycache__', 'weights'} == set(IMPORTS)


@pytest.mark.parametrize(
    'file, line, complaint',
    [
        ('registry/grids.py', 'from ..network import CoAtNet', 'registry must not import network'),
        ('convert/values.py', 'def f():\n    from ..network import CoAtNet', 'convert must not import network'),
        ('network/stem.py', 'from ..factory.build import build', 'network must not import factory'),
        ('hub/cache.py', 'import coatnet_zoo', 'hub must not import __init__'),
        ('hub/cache.py', 'from coatnet_zoo.network import CoAtNet', 'hub must not import network'),
        ('factory/build.py', 'from .. import cli', 'factory must not import cli'),
        ('factory/build.py', 'from ..network.model import Stage', 'instead of the public API of network'),
        ('network/model.py', 'from timm.models._manipulate import checkpoint', 'only _timm.py may'),
        ('network/model.py', 'import timm.models._builder', 'only _timm.py may'),
    ],
)
def test_a_wrong_import_is_found(file: str, line: str, complaint: str, tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / 'coatnet_zoo')
    planted = tmp_path / 'coatnet_zoo' / file
    planted.write_text(f'{planted.read_text()}\n\n{line}\n')
    (found,) = violations(tmp_path / 'coatnet_zoo')
    assert found.startswith(file) and complaint in found


def test_a_circle_is_found(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / 'coatnet_zoo')
    planted = tmp_path / 'coatnet_zoo' / 'network' / 'rel_pos.py'
    planted.write_text(f'{planted.read_text()}\n\nfrom .model import CoAtNet\n')
    assert 'coatnet_zoo.network.model' in circles(tmp_path / 'coatnet_zoo')


def test_files_say_what_they_are_for() -> None:
    for file in [*ROOT.glob('src/**/*.py'), *ROOT.glob('tests/**/*.py'), *ROOT.glob('scripts/**/*.py')]:
        assert ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))), f'{file} does not say what it is for'


def test_scripts_use_nothing_private_of_timm() -> None:
    for file in ROOT.glob('scripts/**/*.py'):
        for dotted in imports(file, ROOT / 'scripts'):
            assert not dotted.startswith('timm.') or '._' not in dotted, f'{file} imports {dotted}'
