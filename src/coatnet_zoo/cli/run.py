"""The command that runs other people's scripts with the models registered: run."""

from pathlib import Path

import click

import coatnet_zoo_command

from ..run import check_script, run_script


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
