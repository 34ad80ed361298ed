"""The command that converts checkpoint files into folders: convert."""

from pathlib import Path

import click

from ..errors import CheckpointError, HubError, shown
from ..registry import INTERPOLATIONS


class Numbers(click.ParamType):
    """Numbers separated by commas, such as `0.485,0.456,0.406`."""

    name = 'numbers'

    def convert(
        self, value: str | list[float], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[float]:
        """The numbers as a list; anything else ends the command with a message."""
        try:
            return [float(v) for v in value.replace(',', ' ').split()] if isinstance(value, str) else value
        except ValueError:
            self.fail(f'{value!r} is not a list of numbers such as 0.485,0.456,0.406', param, ctx)


@click.command()
@click.argument('src', type=click.Path(path_type=Path))
@click.argument('dst', type=click.Path(path_type=Path))
@click.option('--ema', is_flag=True, help='Take the moving average of the weights.')
@click.option('--key', help='Key of the state dict in the file, where there are several.')
@click.option('--prefix', help='Prefix of the names of the network, where there are several networks.')
@click.option('--no-head', is_flag=True, help='Drop the classifier, for fine-tuning.')
@click.option('--in-chans', type=int, help='3: make three channels of one, with equal logits for grey images.')
@click.option(
    '--img-size', type=int, help='Input size in pixels; only for a network whose file has no size (no attention).'
)
@click.option('--mean', type=Numbers(), help="Mean of the training images, in [0, 1]. Default: recorded or ImageNet's.")
@click.option('--std', type=Numbers(), help='Standard deviation of the training images. Default: as for the mean.')
@click.option(
    '--interpolation', type=click.Choice(INTERPOLATIONS), help='How images were resized. Default: recorded or bicubic.'
)
@click.option(
    '--crop-pct', type=float, help='Share that evaluation crops. Default: recorded or 0.875, for keras_cv 0.95.'
)
@click.option(
    '--labels',
    type=click.Path(path_type=Path),
    help="Text file with the name of one class a line, as timm's class map.",
)
@click.option('--name', help='Name of the weights, kept as the tag in config.json.')
@click.option('--overwrite', is_flag=True, help='Replace DST if it is the folder of an earlier conversion, unchanged.')
def convert(src: Path, dst: Path, labels: Path | None, no_head: bool, **options) -> None:
    """Convert a checkpoint file into a folder that loads anywhere.

    SRC is a checkpoint of chinhsuanwu/coatnet-pytorch or keras_cv_attention_models, what timm's train.py wrote, or a
    state dict of a registered network: a .pth, .pt, .pth.tar, .bin, .safetensors or .h5 file. DST becomes a folder with
    model.safetensors and config.json that timm.create_model('local-dir:DST', pretrained=True) loads.
    """
    from ..convert import convert_checkpoint, read_labels

    try:
        names = read_labels(labels) if labels else None
        result = convert_checkpoint(src, dst, labels=names, head=not no_head, **options)
    except (CheckpointError, HubError) as e:
        raise click.ClickException(str(e)) from e
    s = result.structure
    stages = ', '.join(f'{d}x{w} {t}' for d, w, t in zip(s.depths, s.embed_dim, s.block_types, strict=True))
    click.echo(f'{shown(src)}: CoAtNet of {result.num_params:,} parameters')
    heads = f'{s.num_heads} heads' if s.num_heads else 'heads'
    click.echo(f'  stem {"-".join(map(str, s.stem_width))}, stages {stages}, {heads} of {s.dim_head}')
    size = 'x'.join(map(str, s.img_size)) if s.img_size else 'any size'
    click.echo(f'  images {s.in_chans} channels, {size}; {s.num_classes or "no"} classes')
    if result.assumed:
        said = ', '.join(f'{k}={v}' for k, v in result.assumed.items())
        click.echo(f'  assumed, as the file does not say it: {said}')
    if result.left_out:
        some = ', '.join(map(shown, result.left_out[:4])) + (', ...' if len(result.left_out) > 4 else '')
        click.echo(f'  left out, as no part of the network: {some}')
    click.echo(f"wrote {shown(dst)}; load it by timm.create_model('local-dir:{shown(dst)}', pretrained=True)")
