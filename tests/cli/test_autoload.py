"""`coatnet-zoo autoload`: the models are there without an import, and Python starts as before."""

import sys
from pathlib import Path

import pytest
from command_line import refusal
from environment import Environment
from paths import ROOT

KNOWS = "print(__import__('timm').is_model('coatnet_1'))"


@pytest.fixture(scope='module')
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp('autoload') / 'env', ROOT / 'src')


def test_the_models_are_there_if_and_only_if_it_is_on(environment: Environment, tmp_path: Path) -> None:
    off = f'autoload is off in {environment.python.parents[1]}'
    assert environment.autoload('off') == environment.autoload('status') == off
    assert environment.run('-c', KNOWS) == (0, 'False', '')
    for _ in range(2):
        assert environment.autoload('on') == f'autoload is on: {environment.packages / "coatnet_zoo_autoload.pth"}'
    assert environment.autoload('status').startswith('autoload is on')
    assert environment.files == ['coatnet_zoo_autoload.pth']
    # transformers asks for the specification of timm long before it imports timm.
    (tmp_path / 'validate.py').write_text(
        'import sys\nfrom importlib.util import find_spec\n'
        'print(find_spec("timm").name, "timm" in sys.modules)\n'
        'import timm\nprint(timm.create_model("coatnet_atto").cfg.impl)\n'
        'print([finder for finder in sys.meta_path if "_TimmFinder" in repr(finder)])',
        encoding='utf-8',
    )
    assert environment.run(tmp_path / 'validate.py') == (0, 'timm False\npaper\n[]', '')
    assert environment.autoload('off') == off
    assert environment.files == []


def test_nothing_but_one_module_is_imported_without_timm(environment: Environment) -> None:
    environment.autoload('off')
    code = "import sys; print('\\n'.join(sorted(sys.modules)))"
    before = environment.run('-c', code)[1].splitlines()
    environment.autoload('on')
    after = environment.run('-c', code)[1].splitlines()
    assert set(after) - set(before) == {'coatnet_zoo_autoload'}


def test_python_starts_without_the_package(environment: Environment) -> None:
    environment.autoload('on')
    paths = environment.packages / '_paths.pth'
    whole = paths.read_text(encoding='utf-8')
    try:
        paths.write_text(whole.partition('\n')[2].replace(str(ROOT / 'src'), ''), encoding='utf-8')
        assert environment.run('-c', 'import sys; print("coatnet_zoo_autoload" in sys.modules)') == (0, 'False', '')
    finally:
        paths.write_text(whole, encoding='utf-8')


def test_timm_works_although_the_package_is_broken(tmp_path: Path) -> None:
    source = tmp_path / 'source'
    (source / 'coatnet_zoo').mkdir(parents=True)
    (source / 'coatnet_zoo' / '__init__.py').write_text('1 / 0', encoding='utf-8')
    hook = ROOT / 'src' / 'coatnet_zoo_autoload.py'
    (source / hook.name).write_bytes(hook.read_bytes())
    environment = Environment(tmp_path / 'env', source)
    line = 'import coatnet_zoo_autoload\n'
    (environment.packages / 'coatnet_zoo_autoload.pth').write_text(line, encoding='utf-8')
    code, out, err = environment.run('-c', 'import timm; print(timm.is_model("resnet18"))')
    assert (code, out) == (0, 'True')
    assert 'ZeroDivisionError: division by zero' in err and '`coatnet-zoo autoload off`' in err


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'file').touch()
    monkeypatch.setattr(sys.modules['coatnet_zoo.cli.programs'], '_folders', lambda: [tmp_path / 'file' / 'folder'])
    message = refusal('autoload', 'on')
    assert 'cannot be changed (Not a directory); create your own environment' in message
