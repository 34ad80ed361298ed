"""The README's table of models to choose from, and the picture of all. `docs/models.csv` has the measured speeds."""

import csv
from pathlib import Path

from coatnet_zoo.registry import COSTS, WEIGHTS, weights_cfg

SPEEDS = Path(__file__).parents[1] / 'docs' / 'models.csv'
CPU = 'cpu_images_per_second'
# The models, with the reason to choose each.
CHOICE = {
    'coatnet_nano.rmlp_sw_in1k': 'the smallest; laptops, trying things out',
    'coatnet_0.sw_in1k': 'mid-sized; fine-tuning on one GPU',
    'coatnet_1.sw_in1k': 'trained on ImageNet-1k alone',
    'coatnet_1.rmlp2_sw_in12k_ft_in1k': '**start here**: high accuracy for its cost',
    'coatnet_2.sw_in12k_ft_in1k': 'accuracy at 224 pixels',
    'coatnet_2.rmlp_sw_in12k_ft_in1k_384': 'the most accurate',
    'coatnet_3.sw_in12k': 'a large backbone; 11,821 classes, so fine-tune it',
}
CHOICE_HEAD = ['model', 'pixels', 'top-1', 'images/s', 'choose it for']


def _speeds() -> dict[str, str]:
    with SPEEDS.open(newline='') as f:
        return {row['name']: row[CPU] for row in csv.DictReader(f)}


def choice_rows() -> list[list[str]]:
    """The cells of the table, by `CHOICE_HEAD`."""
    speeds, rows = _speeds(), []
    for name, reason in CHOICE.items():
        top1 = '' if WEIGHTS[name].top1 is None else f'{WEIGHTS[name].top1:.1f}'
        rows.append([f'`{name}`', str(weights_cfg(name)['input_size'][-1]), top1, speeds[name], reason])
    return rows


def draw_choice(file: Path) -> None:
    """Draw accuracy over images a second on the CPU; the area of a dot is proportional to the parameters."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 4), layout='constrained')
    for name, speed in _speeds().items():
        top1 = WEIGHTS[name].top1
        if top1 is None:
            continue
        params = COSTS[name, WEIGHTS[name].impl][0] / 1e6
        axis.scatter(float(speed), top1, 6 * params, color='#1f5fa8', alpha=0.75)
        axis.annotate(name, (float(speed), top1), (7 + params / 12, -3), textcoords='offset points', fontsize=8)
    axis.set(xscale='log', xlabel='images a second on two CPU cores', ylabel='ImageNet-1k top-1, %', xlim=(1.2, 95))
    ticks = [2, 5, 10, 20, 50]
    axis.set_xticks(ticks, map(str, ticks))
    axis.minorticks_off()
    axis.margins(y=0.15)
    axis.spines[['top', 'right']].set_visible(False)
    axis.grid(alpha=0.25)
    figure.savefig(file, dpi=110)
    plt.close(figure)
