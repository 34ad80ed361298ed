"""The command line, `coatnet-zoo`: one file per group of commands.

Commands import torch inside their functions, and only commands that need torch: see `coatnet_zoo_command`.
"""

from typing import Any

import click

from ..version import __version__
from .convert import convert
from .explain import explain
from .export import export
from .finetune import finetune
from .predict import predict
from .programs import autoload, run
from .weights import info, list_command, pull_command, push, verify_command

_WEIGHTS = [list_command, info, pull_command, verify_command, push]


class _Group(click.Group):
    """A group that shows the errors of this package in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (ValueError, RuntimeError) as e:
            if type(e).__module__ in ('coatnet_zoo.errors', 'coatnet_zoo_runtime'):
                raise click.ClickException(str(e)) from e
            raise
        except ModuleNotFoundError as e:
            if e.name not in ('torch', 'timm'):
                raise
            way = 'pip install torch timm; only exported folders, with preprocessing.json in them, need neither'
            raise click.ClickException(f'{e.name} is not installed: {way}.') from e


@click.group(
    cls=_Group,
    commands=[*_WEIGHTS, convert, finetune, predict, explain, export, run, autoload],
    context_settings=dict(help_option_names=['-h', '--help']),
)
@click.version_option(__version__)
def main() -> None:
    """CoAtNet for timm: every implementation, with weights and conversion."""
