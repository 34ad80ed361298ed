"""Compare this package with timm and with other engines, and write docs/performance.csv and the tables of the page.

    python -m scripts.benchmarks --part inference sizes

Rows of a part replace the rows of an earlier run. All parts together take forty minutes on two idle cores:

    inference    batches at 224 pixels, each in a process of its own
    sizes        one image of 224 to 672 pixels, with the peak memory of a process
    engines      exported models beside timm's model and ours, each in a process of its own
    same engine  timm's network and ours in OpenVINO
    loading      building coatnet_5 from its file, and converting a checkpoint beside copying it
    starting     imports, the command's list and the first logits, in new processes
    training     a training step
"""

import argparse
from collections.abc import Callable

import torch

from .core import ROOT, THREADS, Row, read, write
from .engines import engines, same_engine
from .figures import write_tables
from .inference import inference, sizes
from .loading import loading, starting
from .training import training

OUT = ROOT / 'docs' / 'performance.csv'  # and the page beside it
PARTS: dict[str, Callable[[int], list[Row]]] = {  # by name; the functions take the number of rounds
    'inference': inference,
    'sizes': sizes,
    'engines': engines,
    'same engine': same_engine,
    'loading': loading,
    'starting': starting,
    'training': training,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--part', nargs='+', choices=PARTS, default=[*PARTS])
    torch.set_num_threads(THREADS)
    rows = read(OUT)
    for part in parser.parse_args().part:
        new = PARTS[part](5)
        print(*(row.line() for row in new), sep='\n', flush=True)
        rows = [row for row in rows if row.part != part] + new
        rows.sort(key=lambda row: [*PARTS].index(row.part))
        write(rows, OUT)  # after every part, because the next may take long and fail
    write_tables(read(OUT), OUT.with_suffix('.md'))


if __name__ == '__main__':
    main()
