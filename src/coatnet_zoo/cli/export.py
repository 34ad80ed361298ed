"""The command that exports a model for other runtimes: export."""

import time
from pathlib import Path

import click


@click.command()
@click.argument('model', type=click.Path(readable=False))
@click.argument('out', type=click.Path(path_type=Path))
@click.option('--format', required=True, metavar='onnx|openvino|pt2', help="pt2 is a package of torch's AOTInductor.")
@click.option('--img-size', type=int, help="Height and width in pixels. Default: the model's.")
@click.option('--dynamic-batch', is_flag=True, help='Take batches of any size instead of one image.')
@click.option('--dynamic-size', is_flag=True, help='Take images of any height and width; not with pt2.')
@click.option(
    '--int8', type=click.Path(path_type=Path), metavar='FOLDER',
    help='Compute with 8-bit integers, calibrated with the images in FOLDER; a few dozen suffice.',
)  # fmt: skip
def export(model: str, out: Path, format: str, **options) -> None:
    """Export MODEL for another runtime into the new folder OUT, and compare it there with the model itself.

    MODEL is a name with or without a tag, a folder, hf-hub:ORG/NAME or a checkpoint file. OUT gets model.onnx,
    model.xml with model.bin, or model.pt2; and preprocessing.json, with the labels. onnx and openvino need the extra:
    pip install 'coatnet-zoo[onnx]' or 'coatnet-zoo[openvino]'.
    """
    from ..export import check_request, export_model
    from ..factory import load_model

    start = time.monotonic()

    def progress(step: str) -> None:
        click.echo(f'{time.monotonic() - start:5.0f} s  {step}', err=True)

    check_request(out, format, options['img_size'], options['dynamic_size'], options['int8'])
    progress(f'loading {model}')
    done = export_model(load_model(model), out, format, progress=progress, **options)
    found = done.comparison
    click.echo(
        f'wrote {done.file}; in {done.runtime}, the largest difference of a logit from torch is '
        f'{found.difference:.1e}, and the largest logit {found.largest:.1e}'
    )
    if done.images:
        click.echo(f'  the same class for {found.agreement} of {done.images} calibration images')
