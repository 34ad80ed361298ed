"""The command line, `coatnet-zoo`: one file per group of commands.

Commands import torch inside their functions, and only commands that need torch: see `coatnet_zoo_command`.
"""

import click

from ..version import __version__
from .autoload import autoload
from .convert import convert
from .explain import explain
from .export import export
from .predict import predict
from .publish import push
from .run import run
from .weights import info, list_command, pull_command, verify_command


@click.group(context_settings=dict(help_option_names=['-h', '--help']))
@click.version_option(__version__)
def main() -> None:
    """CoAtNet for timm: every implementation, with weights and conversion."""


for _command in (
    list_command,
    info,
    pull_command,
    verify_command,
    push,
    convert,
    predict,
    explain,
    export,
    run,
    autoload,
):
    main.add_command(_command)
