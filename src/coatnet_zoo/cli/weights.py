"""The commands for published weights: list, info, pull, verify, push."""

import dataclasses
import fnmatch
import json
from pathlib import Path

import click

import coatnet_zoo_command

from ..errors import CheckpointError, HubError, UnknownNameError
from ..files import CARD
from ..hub import Entry, entries, entries_of, full_names, local_file, pull, verify
from ..registry import WEIGHTS, short, weights_cfg
from .columns import table
from .output import announce


@click.command('list')
@click.argument('names', nargs=-1, metavar='[NAME]...')
@click.option('--pretrained', is_flag=True, help='Leave out networks without weights.')
@click.option('--impl', help='List only this implementation.')
@click.option('--json', 'as_json', is_flag=True, help='Machine-readable: a list of objects, see docs/commands.md.')
def list_command(names: tuple[str, ...], pretrained: bool, impl: str | None, as_json: bool) -> None:
    """List every name with its costs and the source of its weights; offline.

    NAME limits the list: a size, a name with a tag, timm's name for the same weights, or a pattern such as
    '*in1k'. A terminal gets the columns that fit; a pipe or a file gets all of them.
    """
    wanted = {entry.name for name in names for entry in _matching(name)}
    found = [entry for entry in entries(pretrained, impl) if not names or entry.name in wanted]
    click.echo(json.dumps([dataclasses.asdict(entry) for entry in found], indent=1) if as_json else table(found))


def _matching(name: str) -> list[Entry]:
    """The entries of a name or of a pattern."""
    if not set(name) & set('*?['):
        return entries_of(name)
    found = [entry for entry in entries() if fnmatch.fnmatch(entry.name, name)]
    if not found:
        raise UnknownNameError(f'No name matches {short(name)}; `coatnet-zoo list` shows every name.')
    return found


@click.command()
@click.argument('name')
def info(name: str) -> None:
    """Show all facts about NAME, with or without a tag; offline.

    NAME may be timm's name for the same weights.
    """
    texts = ['\n'.join(f'{key + ":":<16}{value}' for key, value in _facts(entry).items()) for entry in entries_of(name)]
    click.echo('\n\n'.join(texts))


def _facts(entry: Entry) -> dict[str, str]:
    classes, channels, pixels = usual = (1000, 3, 224)  # what the table of sizes in docs/models.md counts
    is_usual = (entry.num_classes, entry.in_chans, entry.img_size) == usual
    counted = f'; the table of sizes counts {classes} classes, {channels} channels and {pixels} pixels'
    facts = {
        'name': entry.name,
        'implementation': entry.impl,
        'parameters': f'{entry.params:,}{"" if is_usual else counted}',
        'multiply-adds': f'{entry.gmacs:g} G for one image',
        'images': f'{entry.in_chans} {"channel" if entry.in_chans == 1 else "channels"}, {entry.img_size} pixels',
        'classes': str(entry.num_classes),
    }
    if entry.tag is None:
        return facts | {
            'weights': 'none published: the model is untrained',
            'load': f'timm.create_model({entry.name!r}, impl={entry.impl!r})',
        }
    weights, cfg = WEIGHTS[entry.name], weights_cfg(entry.name)
    accuracies = [f'{k} {v:.3f} %' for k, v in (('top-1', weights.top1), ('top-5', weights.top5)) if v]
    return facts | {
        'trained on': weights.data,
        'accuracy': ', '.join(accuracies) or 'none published',
        'preprocessing': f'mean {cfg["mean"]}, std {cfg["std"]}, {cfg["interpolation"]}, crop {cfg["crop_pct"]}',
        'licence': str(entry.license),
        'source': str(entry.source),
        'download': f'about {entry.download / 1e6:.0f} MB' if entry.download else 'none: the weights are bundled',
        'file': str(local_file(entry.name) or f'not on this machine; `coatnet-zoo pull {entry.name}` downloads it'),
        'load': f'timm.create_model({entry.name!r}, pretrained=True)',
    }


@click.command('pull')
@click.argument('names', nargs=-1, metavar='NAME...')
@click.option('--all', 'everything', is_flag=True, help='All published weights.')
@click.option('--dest', type=click.Path(), metavar='DEST', help='Also make a folder for local-dir:, one for each name.')
def pull_command(names: tuple[str, ...], everything: bool, dest: str | None) -> None:
    """Download weights into the cache; existing files are checked.

    With --dest, DEST (or DEST/NAME, for several names) becomes a folder that
    timm.create_model('local-dir:DEST', pretrained=True) loads on a machine without a network.
    """
    if bool(names) == everything:
        raise click.UsageError('Give names or --all.')
    wanted = list(WEIGHTS) if everything else full_names(names)
    failed = False
    if dest is not None:
        coatnet_zoo_command.import_models()
        from ..hub.publish import make_folder
    for name in wanted:
        try:
            click.echo(f'{name}: {pull(name)}')
            if dest is not None:
                folder = Path(dest) if len(wanted) == 1 else Path(dest, name)
                make_folder(name, folder)
                click.echo(f"wrote {folder}; load it with timm.create_model('local-dir:{folder}', pretrained=True)")
        except (CheckpointError, HubError) as e:
            failed = True
            click.echo(f'Error: {name}: {e}', err=True)
    if failed:
        raise SystemExit(1)


@click.command('verify')
@click.argument('names', nargs=-1, required=True, metavar='NAME...')
def verify_command(names: tuple[str, ...]) -> None:
    """Compare cached weights with the SHA-256 that the Hub declared for them; offline."""
    verdicts = {name: verify(name) for name in full_names(names)}
    for name, (_, text) in verdicts.items():
        click.echo(f'{name}: {text}')
    if not all(sound for sound, _ in verdicts.values()):
        raise SystemExit(1)


@click.command()
@click.argument('folder', type=click.Path(path_type=Path, exists=True, file_okay=False), metavar='DIR')
@click.argument('repo_id', metavar='ORG/NAME')
@click.option('--private', is_flag=True, help='Create a private repository.')
@click.option('--dry-run', is_flag=True, help='Check the folder and show the files; publish nothing.')
@click.option('--license', help='Licence identifier, e.g. apache-2.0. Default: the licence in config.json.')
@click.option('--data', help='For the card: the training data.')
@click.option('--accuracy', type=click.FloatRange(0, 100), help='For the card: top-1 in percent.')
@click.option('--source', help='For the card: where the weights come from.')
def push(folder: Path, repo_id: str, private: bool, dry_run: bool, **facts) -> None:
    """Publish a folder, converted or fine-tuned, on the Hugging Face Hub.

    DIR has model.safetensors and config.json; its README.md becomes the model card; without one, push writes it.
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
