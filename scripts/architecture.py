"""The picture of CoAtNet-0 in the README and docs/implementations.md, as SVG. `make tables` writes it."""

from coatnet_zoo.registry import feature_sizes, resolve_cfg

_HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 852 248" width="852" height="248">'
_STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1b2733; text-anchor: middle }
.small { font-size: 11px; fill: #44525f }
.left { text-anchor: start }
rect { stroke: #7d8a97; fill: #e9edf1 }
.C { fill: #cfe3f7 }
.T { fill: #fbdfc0 }
path, circle { stroke: #44525f; stroke-width: 1.3; fill: none }
circle { fill: #fff }
.card { fill: #fff; stroke: none }
</style>"""
# The kinds of blocks: the boxes, and the shortcuts from before one box to behind another.
_KINDS = {'C': 'MBConv', 'T': 'Transformer'}
_BLOCKS = {
    'C': (['norm', '1x1 conv, to 4x', 'depthwise 3x3', 'squeeze-excite', '1x1 conv'], [(0, 4)]),
    'T': (['norm', 'relative attention', 'norm', 'feed-forward, 4x'], [(0, 1), (2, 3)]),
}
_ATTENTION = (
    'relative attention: softmax(q·k / √d + w) v, where w is learned for each head and each offset of positions'
)


def _text(x: float, y: float, words: str, style: str = 'small') -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{words}</text>'


def _box(kind: str, x: int, y: int, width: int, height: int) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>'


def _arrow(x: int, y: int, length: int) -> str:
    return f'<path d="M{x} {y}h{length}m-6 -4l6 4l-6 4"/>'


def architecture() -> str:
    """The SVG: a row of stages with their widths and sizes, and below it a row for each of the two kinds of blocks."""
    cfg = resolve_cfg('coatnet_0', 'paper')
    sides = [side for side, _ in feature_sizes((224, 224), len(cfg.depths))]
    row = [('stem', 'stem', f'{len(cfg.stem_width)} convolutions', f'width {cfg.stem_width[-1]}, 112x112')]
    for i, (kind, depth, width) in enumerate(zip(cfg.block_types, cfg.depths, cfg.embed_dim, strict=True)):
        size = f'width {width}, {sides[i]}x{sides[i]}'
        row.append((kind, f'stage {i + 1}: {kind}', f'{depth} x {_KINDS[kind]}', size))
    row.append(('head', 'head', 'average, linear', '1000 classes'))
    parts = [_box('card', 0, 0, 852, 248)]
    for i, (kind, *lines) in enumerate(row):
        x = 16 + 138 * i
        parts += [_box(kind, x, 14, 112, 66), *(_text(x + 56, 35 + 18 * n, line) for n, line in enumerate(lines))]
        parts += [_arrow(x + 112, 47, 26)] if i + 1 < len(row) else []
    for i, (kind, (boxes, shortcuts)) in enumerate(_BLOCKS.items()):
        y = 122 + 66 * i
        parts += [_text(16, y + 19, f'{kind}: {_KINDS[kind]}', 'left'), _arrow(128, y + 15, 26)]
        for n, words in enumerate(boxes):
            x = 154 + 138 * n
            parts += [_box(kind, x, y, 112, 30), _text(x + 56, y + 19, words), _arrow(x + 112, y + 15, 26)]
        for first, end in shortcuts:
            start, add = 142 + 138 * first, 274 + 138 * end
            parts.append(f'<path d="M{start} {y + 15}v-27h{add - start}v21"/>')
            parts.append(f'<circle cx="{add}" cy="{y + 15}" r="6"/><path d="M{add - 4} {y + 15}h8m-4 -4v8"/>')
    return '\n'.join([_HEAD, _STYLE, *parts, _text(16, 240, _ATTENTION, 'small left'), '</svg>\n'])
