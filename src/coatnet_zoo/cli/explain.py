"""The command that draws how a model classifies an image, and where in the image the evidence is: explain."""

from pathlib import Path

import click

import coatnet_zoo_command

from ..errors import CheckpointError, ExplainError, HubError, shown


@click.command()
@click.argument('image', type=click.Path(path_type=Path))
@click.option(
    '--model', 'name', required=True, help='Name with or without a tag, folder, checkpoint or hf-hub:ORG/NAME.'
)
@click.option('--out', required=True, type=click.Path(path_type=Path), help='PNG file to write.')
@click.option('--target', type=int, metavar='CLASS', help='Number of the class. Default: the most probable one.')
def explain(image: Path, name: str, out: Path, target: int | None) -> None:
    """Draw how a model classifies IMAGE, and where in IMAGE the evidence is.

    The picture has the image, a class activation map, the most probable classes, and of each stage with attention the
    learned relative position bias of a head. Needs the extra: pip install 'coatnet-zoo[explain]'.
    """
    coatnet_zoo_command.import_models()
    from ..factory import load_model
    from ..images import (
        NO_TABLES,
        check_out,
        draw_explanation,
        explain_image,
        open_image,
        require_matplotlib,
        write_picture,
    )

    try:
        check_out(out, image)
        require_matplotlib()
        opened = open_image(image)
        explanation = explain_image(opened, load_model(name), target)
        write_picture(draw_explanation(explanation, f'{image.name}, as seen by {name}'), out)
    except (ExplainError, CheckpointError, HubError) as e:
        raise click.ClickException(str(e)) from e
    for guess in explanation.top:
        click.echo(f'{guess.probability:7.2%}  {guess.index:5}  {shown(guess.label)}')
    if not explanation.tables:
        click.echo(NO_TABLES)
    click.echo(
        f'wrote {shown(out)}, with the evidence for class {explanation.target.index}, {shown(explanation.target.label)}'
    )
