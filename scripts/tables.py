"""Write what follows from the registry, for `make tables`: costs, fingerprints, and the tables of README and docs.

In the documents the script replaces the text between `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import timm
from tqdm import tqdm

from coatnet_zoo import CoAtNet, list_impls, registry, resolve_cfg
from coatnet_zoo.convert import fingerprint
from coatnet_zoo.registry import IMPLS, SIZES, TIMM_NAMES, WEIGHTS

from .choice import CHOICE_HEAD, choice_rows, draw_choice
from .counting import multiply_adds, num_params

ROOT = Path(__file__).parents[1]
REGISTRY = ROOT / 'src' / 'coatnet_zoo' / 'registry'
Costs = dict[tuple[str, str], tuple[int, float]]
STANDARD = (224, 3, 1000)  # pixels, channels, classes


@functools.cache
def network(size: str, impl: str, made_for: tuple[int, int, int]) -> CoAtNet:
    """A network on the meta device."""
    return CoAtNet(resolve_cfg(size, impl), *made_for, device='meta').eval()


@functools.cache
def cost(size: str, impl: str, made_for: tuple[int, int, int]) -> tuple[int, float]:
    """The parameters of a network, and its multiply-adds in billions for one image."""
    model = network(size, impl, made_for)
    return num_params(model), multiply_adds(model) / 1e9


def listed() -> Iterator[tuple[str, str]]:
    """Every name and implementation that the catalogue lists: weights, and implementations without weights."""
    for size in SIZES:
        tags = registry.tags_of(size)
        yield from ((f'{size}.{tag}', impl) for tag, impl in tags.items())
        yield from ((size, impl) for impl in list_impls(size) if impl not in tags.values())


def count_costs() -> Costs:
    """Parameters, and multiply-adds in billions with four digits, of everything that the catalogue lists."""
    costs = {}
    for name, impl in tqdm(list(listed()), desc='counting', leave=False):
        size, _, tag = name.partition('.')
        cfg = registry.weights_cfg(name) if tag else dict(input_size=(3, 224, 224), num_classes=1000)
        made_for = cfg['input_size'][-1], cfg['input_size'][0], cfg['num_classes']
        params, gmacs = cost(size, impl, made_for)
        costs[name, impl] = params, float(f'{gmacs:.4g}')
    return costs


def _json(rows: Iterable[Sequence[object]]) -> str:
    return '[\n{}\n]\n'.format(',\n'.join(map(json.dumps, rows)))


def costs_file(costs: Costs) -> str:
    """The content of registry/costs.json."""
    return _json([*key, *cost] for key, cost in costs.items())


def fingerprints_file() -> str:
    """The content of registry/fingerprints.json."""
    ours: dict[str, tuple[str, str]] = {}
    for size in SIZES:
        for impl in list_impls(size):
            ours.setdefault(fingerprint(network(size, impl, STANDARD).state_dict()), (size, impl))
    theirs: dict[str, str] = {}
    for name in TIMM_NAMES:
        theirs.setdefault(fingerprint(timm.create_model(name, device='meta').state_dict()), name)
    return _json([key, ours.get(key), theirs.get(key)] for key in {**ours, **theirs})


def _table(head: list[str], rows: list[list[str]], right: set[int] = frozenset()) -> str:
    rules = ['---:' if i in right else '---' for i in range(len(head))]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (head, rules, *rows))


def sizes_table() -> str:
    """docs/models.md: millions of parameters by size and implementation, with 1000 classes at 224x224 pixels."""
    third_party = [impl for impl, row in IMPLS.items() if row.code]
    shown = [*(impl for impl in IMPLS if impl.startswith('timm')), 'paper', *third_party]
    rows = []
    for size in SIZES:
        params = {impl: f'{num_params(network(size, impl, STANDARD)) / 1e6:,.2f}' for impl in list_impls(size)}
        rows.append([f'`{size}`', *(params.get(impl, '') for impl in shown), f'`{next(iter(params))}`'])
    return _table(['name', *(f'`{impl}`' for impl in shown), 'default'], rows)


def weights_table(costs: Costs) -> str:
    """docs/models.md: every set of weights."""
    rows = []
    for name, weights in WEIGHTS.items():
        source = 'bundled with the package'
        if weights.release:
            source = f'[{Path(weights.release).name}]({registry.RELEASE_HOST}/{weights.release})'
        elif weights.hf_hub_id:
            source = f'[{weights.hf_hub_id}](https://huggingface.co/{weights.hf_hub_id})'
        accuracies = ['' if top is None else f'{top:.3f}' for top in (weights.top1, weights.top5)]
        params, pixels = f'{costs[name, weights.impl][0] / 1e6:.2f}', str(registry.weights_cfg(name)['input_size'][-1])
        rows.append([f'`{name}`', f'`{weights.impl}`', params, pixels, *accuracies, weights.data, source])
    return _table(['name', '`impl`', 'M params', 'px', 'top-1', 'top-5', 'trained on', 'source'], rows)


def variants_table() -> str:
    """docs/implementations.md: how timm's variants differ."""
    rows = []
    for size, row in SIZES.items():
        for impl in (impl for impl in row.impls if impl.startswith('timm')):
            cfg = resolve_cfg(size, impl)
            hub_id = next(w.hf_hub_id for n, w in WEIGHTS.items() if n.startswith(f'{size}.') and w.impl == impl)
            theirs = re.match(r'timm/(.*)_\d+\.', hub_id)[1]
            se = {'silu': 'SiLU', 'relu': 'ReLU'}[cfg.se_act] + (', early' if cfg.se_early else '')
            bias = f'MLP {cfg.rel_pos_dim}' if cfg.rel_pos_type == 'mlp' else 'table'
            params, gmacs = cost(size, impl, STANDARD)
            names = f'`{size}`', f'`{impl}`', f'`{theirs}`'
            rows.append([*names, cfg.conv_stride, cfg.pool_type, se, bias, f'{params / 1e6:.2f}', f'{gmacs:.2f}'])
    return _table(['name', '`impl`', 'in timm', 'stride', 'pool', 'SE', 'rel. bias', 'M', 'G'], rows, right={7, 8})


def timm_names_table() -> str:
    """docs/migrating.md: what timm's names are here, as `registry.our_name` understands them."""
    rows = []
    for theirs, row in TIMM_NAMES.items():
        tags = registry.timm_tags(theirs)
        rows += [[f'`{theirs}.{tag}`', f'`{ours}`'] for tag, ours in tags.items()]
        if row is None:
            rows.append([f'`{theirs}`', 'not here: other blocks'])
        elif not tags:
            rows.append([f'`{theirs}`', f'`{registry.call_of(theirs)}`, untrained'])
    return _table(["timm's name", 'here'], rows)


def documents(costs: Costs) -> dict[Path, str]:
    """The documents with new tables, by path."""
    tables = {
        ('README.md', 'choice'): _table(CHOICE_HEAD, choice_rows(), right={1, 2, 3}),
        ('docs/models.md', 'sizes'): sizes_table(),
        ('docs/models.md', 'weights'): weights_table(costs),
        ('docs/implementations.md', "timm's variants"): variants_table(),
        ('docs/migrating.md', "timm's names"): timm_names_table(),
    }
    texts = {file: (ROOT / file).read_text(encoding='utf-8') for file, _ in tables}
    for (file, name), table in tables.items():
        marks = rf'(?<=<!-- table: {name} -->\n).*?(?=\n<!-- end of table -->)'
        texts[file], count = re.subn(marks, lambda _, table=table: table, texts[file], count=1, flags=re.DOTALL)
        if not count:
            raise ValueError(f'{file} has no region <!-- table: {name} --> ... <!-- end of table -->.')
    return {ROOT / file: text for file, text in texts.items()}


def main() -> None:
    costs = count_costs()
    (REGISTRY / 'costs.json').write_text(costs_file(costs), encoding='utf-8')
    (REGISTRY / 'fingerprints.json').write_text(fingerprints_file(), encoding='utf-8')
    for file, text in documents(costs).items():
        file.write_text(text, encoding='utf-8')
    draw_choice(ROOT / 'docs' / 'models.png')


if __name__ == '__main__':
    main()
