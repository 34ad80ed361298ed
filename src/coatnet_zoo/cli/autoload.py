"""The command that lets timm know the models without an import: autoload."""

import os
import site
import sys
import sysconfig
from pathlib import Path

import click

from ..files import write_file

_NAME = 'coatnet_zoo_autoload.pth'
# Python executes this line at every start, even if the package is missing or broken.
_LINE = 'import sys; exec("try:\\n import coatnet_zoo_autoload\\nexcept Exception:\\n pass")\n'


@click.command()
@click.argument('action', type=click.Choice(['on', 'off', 'status']))
def autoload(action: str) -> None:
    """Register the models in every program of this environment that imports timm.

    With `on`, programs that have no place for `import coatnet_zoo` have the models: transformers, timm's validate.py,
    `python -c "import timm; ..."`. A Python that does not import timm starts as before. `off` undoes `on`, and `status`
    shows which of them holds.
    """
    try:
        if action == 'on':
            write_file(_folder() / _NAME, lambda partial: partial.write_text(_LINE, encoding='utf-8'))
        elif action == 'off':
            for file in _files():
                file.unlink()
    except OSError as e:
        raise click.ClickException(
            f'The packages of {sys.prefix} cannot be changed ({e.strerror}); make an environment of your own by '
            '`python -m venv`.'
        ) from e
    files = ', '.join(map(str, _files()))
    click.echo(f'autoload is on: {files}' if files else f'autoload is off in {sys.prefix}')


def _folders() -> list[Path]:
    """The folders of this environment whose `.pth` files Python reads."""
    return [Path(folder) for folder in dict.fromkeys([sysconfig.get_paths()['purelib'], *site.getsitepackages()])] + (
        [Path(site.getusersitepackages())] if site.ENABLE_USER_SITE else []
    )


def _files() -> list[Path]:
    return [folder / _NAME for folder in _folders() if (folder / _NAME).is_file()]


def _folder() -> Path:
    """The first writable folder, or the first folder if no folder is writable."""
    folders = _folders()
    return next((folder for folder in folders if os.access(folder, os.W_OK)), folders[0])
