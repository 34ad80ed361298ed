"""The command that publishes a folder on the Hugging Face Hub: push."""

from pathlib import Path

import click

import coatnet_zoo_command

from ..files import CARD
from .output import announce


@click.command()
@click.argument('folder', type=click.Path(path_type=Path, exists=True, file_okay=False), metavar='DIR')
@click.argument('repo_id', metavar='ORG/NAME')
@click.option('--private', is_flag=True, help='Create a private repository.')
@click.option('--dry-run', is_flag=True, help='Check the folder and show the files; publish nothing.')
@click.option('--license', help='Identifier of the licence, e.g. apache-2.0. Default: the licence in config.json.')
@click.option('--data', help='For the card: the training data.')
@click.option('--accuracy', type=click.FloatRange(0, 100), help='For the card: top-1 in percent.')
@click.option('--source', help='For the card: where the weights come from.')
def push(folder: Path, repo_id: str, private: bool, dry_run: bool, **facts) -> None:
    """Publish a folder, converted or fine-tuned, on the Hugging Face Hub.

    DIR has model.safetensors and config.json; its README.md becomes the model card, or one is written.
    """
    announce(f'checking {folder}')
    coatnet_zoo_command.import_models()
    from ..hub.publish import prepare, publish

    content = prepare(folder, repo_id, **facts)
    if dry_run:
        click.echo(f'would publish {repo_id}:')
    else:
        announce(f'publishing {repo_id}')
        click.echo(f'published {publish(repo_id, content, private)}:')
    for name, file in content.items():
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        click.echo(f'  {name}  {size:,} bytes')
    if dry_run:
        click.echo(f'\n{content[CARD].decode()}')
