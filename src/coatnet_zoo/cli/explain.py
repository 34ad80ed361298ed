"""The command that draws how a model classifies an image, and where in the image the evidence is: explain."""

from pathlib import Path

import click

from ..errors import shown
from .output import announce, check_out, model_option, write_out


@click.command()
@click.argument('image', type=click.Path(path_type=Path))
@model_option
@click.option('--out', required=True, type=click.Path(path_type=Path), help='PNG file to write.')
@click.option('--target', type=int, metavar='CLASS', help='Number of the class. Default: the most probable one.')
def explain(image: Path, name: str, out: Path, target: int | None) -> None:
    """Draw how a model classifies IMAGE, and where in IMAGE the evidence is.

    The picture has the image, a class activation map, the most probable classes, and the learned relative position bias
    of one head of each stage with attention. Needs the extra: pip install 'coatnet-zoo[explain]'.
    """
    check_out(out, '.png', image)
    announce(f'loading {name}')
    from coatnet_zoo_runtime import open_image

    from ..factory import load_model
    from ..images import NO_TABLES, draw_explanation, explain_image, require_matplotlib

    require_matplotlib()
    explanation = explain_image(open_image(image), load_model(name), target)
    figure = draw_explanation(explanation, f'{image.name}, as seen by {name}')
    write_out(out, lambda partial: figure.savefig(partial, format='png', dpi=100))
    for guess in explanation.top:
        click.echo(f'{guess.probability:7.2%}  {guess.index:5}  {shown(guess.name)}')
    if not explanation.tables:
        click.echo(NO_TABLES)
    click.echo(
        f'wrote {shown(out)}, with the evidence for class {explanation.target.index}, {shown(explanation.target.name)}'
    )
