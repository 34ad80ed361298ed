"""The command that converts checkpoint files into folders: convert."""

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import click

import coatnet_zoo_command

from ..errors import first_line, shown
from ..registry import INTERPOLATIONS
from .output import announce, size_option

_PATH = click.Path(path_type=Path)


def numbers(text: str) -> list[float]:
    """Numbers separated by commas, such as `0.485,0.456,0.406`."""
    try:
        return [float(v) for v in text.replace(',', ' ').split()]
    except ValueError as e:
        raise click.BadParameter(f'{text!r} is not a list of numbers such as 0.485,0.456,0.406') from e


def function(text: str) -> Callable:
    """A function of a Python file, written `FILE:FUNCTION`."""
    file, _, name = text.rpartition(':')
    if not os.path.isfile(file):
        raise click.BadParameter(f'{text!r} is not FILE:FUNCTION with a Python file')
    sys.path.insert(0, os.path.dirname(os.path.abspath(file)))  # for what the file imports
    try:
        return runpy.run_path(file)[name]
    except Exception as e:
        raise click.ClickException(f'{shown(name)} cannot be imported from {shown(file)}: {first_line(e)}') from e


@click.command()
@click.argument('src', type=_PATH)
@click.argument('dst', type=_PATH)
@click.option('--ema', is_flag=True, help='Take the moving average of the weights.')
@click.option('--key', help='Key of the state dict, if the file has several.')
@click.option('--prefix', help='Prefix of the tensor names, if the file has several networks.')
@click.option('--no-head', is_flag=True, help='Drop the classifier, for fine-tuning.')
@click.option('--in-chans', type=int, help='3: expand one channel to three, with equal logits for grey images.')
@size_option('Size of the training images, if no position table of square images shows it.')
@click.option('--mean', type=numbers, help="Mean of the training images, in [0, 1]. Default: recorded or ImageNet's.")
@click.option('--std', type=numbers, help='Standard deviation of the training images. Default: as for --mean.')
@click.option(
    '--interpolation', type=click.Choice(INTERPOLATIONS), help='How images were resized. Default: recorded or bicubic.'
)
@click.option(
    '--crop-pct', type=float, help='Crop ratio of the evaluation. Default: recorded, or 0.875 (keras_cv 0.95).'
)
@click.option('--labels', type=_PATH, help="Text file with one class name per line, like timm's class maps.")
@click.option('--name', help='Name of the weights, kept as the tag in config.json.')
@click.option(
    '--compare',
    type=function,
    metavar='FILE:FUNCTION',
    help='Your code, which is executed: a function without arguments that builds the network. Both must compute the '
    'same logits.',
)
@click.option('--check', type=_PATH, help="File from torch.save({'images': ..., 'logits': ...}) to compare with.")
@click.option('--overwrite', is_flag=True, help='Replace DST if it holds nothing but an earlier conversion.')
def convert(src: Path, dst: Path, labels: Path | None, no_head: bool, **options) -> None:
    """Convert a checkpoint file into a folder that loads anywhere.

    SRC is a checkpoint of chinhsuanwu/coatnet-pytorch or keras_cv_attention_models, one from timm's train.py, or a
    state dict of a network of this package or timm: a .pth, .pt, .pth.tar, .bin, .safetensors or .h5 file; or a folder
    or hf-hub:ORG/NAME with one of timm's CoAtNets. DST becomes a folder with model.safetensors and config.json that
    timm.create_model('local-dir:DST', pretrained=True) loads.
    """
    announce(f'converting {src}')
    coatnet_zoo_command.import_models()
    from ..convert import convert_checkpoint, read_labels

    names = read_labels(labels) if labels else None
    result = convert_checkpoint(src, dst, labels=names, head=not no_head, **options)
    s = result.structure
    stages = ', '.join(f'{d}x{w} {t}' for d, w, t in zip(s.depths, s.embed_dim, s.block_types, strict=True))
    click.echo(f'{shown(src)}: CoAtNet of {result.num_params:,} parameters')
    heads = f'{s.num_heads} heads, ' if s.num_heads else ''
    click.echo(f'  stem {"-".join(map(str, s.stem_width))}, stages {stages}, {heads}head dimension {s.dim_head}')
    size = 'x'.join(map(str, s.img_size))
    channels = f'{s.in_chans} channel' + ('s' if s.in_chans > 1 else '')
    click.echo(f'  images {channels}, {size}; {s.num_classes or "no"} classes')
    is_compared = options['compare'] or options['check']
    if is_compared:
        click.echo('  compared: the logits match those of the code that trained it')
    if result.assumed_network and not is_compared:
        click.echo(f'  assumed of the network: {result.assumed_network}; check with --compare or --check')
    if result.left_out:
        some = ', '.join(map(shown, result.left_out[:4])) + (', ...' if len(result.left_out) > 4 else '')
        click.echo(f'  left out, not part of the network: {some}')
    if result.others:
        some = ', '.join(map(shown, result.others[:4]))
        click.echo(f'  also in the file, but not taken: the network under {some}; see --ema, --key and --prefix')
    click.echo(f"wrote {shown(dst)}; load it with timm.create_model('local-dir:{shown(dst)}', pretrained=True)")
    if result.assumed:
        what = ', '.join(f'{k}={v}' for k, v in result.assumed.items())
        ways = ' '.join(f'--{k.replace("_", "-")}' for k in result.assumed)
        click.echo(f'\nAssumed, as the file does not record the preprocessing: {what}\nIf yours differs, give: {ways}')
