"""The commands for programs that use timm and do not import this package: run, autoload."""

import os
import site
import sys
import sysconfig
from pathlib import Path

import click

import coatnet_zoo_command

from ..files import write_file
from ..run import check_script, run_script

_NAME = 'coatnet_zoo_autoload.pth'
# Python executes this line at every start, even if the package is missing or broken.
_LINE = 'import sys; exec("try:\\n import coatnet_zoo_autoload\\nexcept Exception:\\n pass")\n'


@click.command(context_settings=dict(ignore_unknown_options=True, allow_interspersed_args=False))
@click.argument('script', type=click.Path(path_type=Path))
@click.argument('args', nargs=-1, type=click.UNPROCESSED)
def run(script: Path, args: tuple[str, ...]) -> None:
    """Run a script that uses timm, with the models of this package registered.

    SCRIPT is a Python file, such as timm's validate.py; ARGS are its own arguments.
    """
    check_script(script)

    def run_it() -> None:
        coatnet_zoo_command.import_models()
        run_script(script, args)

    coatnet_zoo_command.afterwards = run_it


@click.command()
@click.argument('action', type=click.Choice(['on', 'off', 'status']))
def autoload(action: str) -> None:
    """Register the models in every program of this environment that imports timm.

    Use `on` for programs to which you cannot add the import: transformers, timm's validate.py,
    `python -c "import timm; ..."`. A Python that does not import timm starts as before. `off` undoes `on`, and `status`
    shows which is in effect.
    """
    files = [folder / _NAME for folder in _folders()]
    try:
        if action == 'on':
            file = next((file for file in files if os.access(file.parent, os.W_OK)), files[0])
            write_file(file, lambda partial: partial.write_text(_LINE, encoding='utf-8'))
        elif action == 'off':
            for file in files:
                file.unlink(missing_ok=True)
    except OSError as e:
        raise click.ClickException(
            f'The packages of {sys.prefix} cannot be changed ({e.strerror}); create your own environment with '
            '`python -m venv`.'
        ) from e
    found = ', '.join(str(file) for file in files if file.is_file())
    click.echo(f'autoload is on: {found}' if found else f'autoload is off in {sys.prefix}')


def _folders() -> list[Path]:
    """The folders of this environment whose `.pth` files Python reads."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    folders = [sysconfig.get_paths()['purelib'], *site.getsitepackages(), *user]
    return [Path(folder) for folder in dict.fromkeys(folders)]
