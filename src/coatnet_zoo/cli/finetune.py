"""The command that trains a model on a folder of photos: finetune."""

from typing import Any

import click

import coatnet_zoo_command


@click.command()
@click.argument('photos', type=click.Path())
@click.argument('out', type=click.Path())
@click.option('--model', default='coatnet_nano', show_default=True, help='Name, folder, checkpoint or hf-hub:ORG/NAME.')
@click.option('--epochs', default=15, show_default=True, help='The first third trains the classifier alone.')
@click.option('--lr', type=float, help='Peak learning rate. Default: 5e-4; from scratch 2e-3.')
@click.option('--img-size', type=int, help="Height and width in pixels. Default: the model's.")
@click.option('--batch-size', default=32, show_default=True, help='Photos per step.')
@click.option('--val', metavar='SHARE|DIR', help='Photos for validation. Default: the folder in PHOTOS, else 0.2.')
@click.option('--device', help='cpu, cuda, mps, ... Default: the accelerator, else the CPU.')
@click.option('--seed', default=0, show_default=True, help='Seed of the split and of everything random.')
@click.option('--resume', is_flag=True, help='Continue after the last complete epoch in OUT.')
@click.option('--from-scratch', is_flag=True, help='Start from random weights.')
@click.option('--ema', is_flag=True, help='Keep a moving average of the weights.')
@click.option('--mixup', default=0.0, metavar='ALPHA', help='Mix pairs of photos; 0 is off.')
@click.option('--grad-checkpointing', is_flag=True, help='Save memory at the cost of time.')
def finetune(**arguments: Any) -> None:
    """Train a model on PHOTOS, a folder for each class, and keep the best epoch in the new folder OUT.

    PHOTOS may also have train and val (or valid, validation, test) with such folders. OUT is a model for predict,
    explain, export and push, with summary.csv, the guesses in photos.csv and, with the extra explain, training.png.
    """
    coatnet_zoo_command.import_models()
    from ..finetuning import finetune

    accuracy = finetune(**arguments)
    click.echo(f'wrote {arguments["out"]}, with {accuracy:.1f} % on the validation photos')
