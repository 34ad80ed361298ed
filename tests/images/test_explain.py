"""`coatnet-zoo explain`: evidence of known sum and place, tables beside the model's own, one-line errors."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from command_line import output_of, refusal
from paths import DATA
from peers import randomize_
from PIL import Image
from torch import nn

from coatnet_zoo import CoAtNet, ExplainError, draw_explanation, explain_image, optimize_for_inference
from coatnet_zoo.images import BiasTable, Explanation, picture
from coatnet_zoo.network import expand_rel_pos_table
from coatnet_zoo_runtime import open_image

pytest.importorskip('matplotlib', reason='needs the extra explain')

DIGIT = DATA / 'digits' / '3_row0705.png'
SMALL = dict(embed_dim=(32, 32, 64, 64), depths=(1, 1, 2, 2), stem_width=(8, 8), num_classes=7)


def small(name: str = 'coatnet_0', **kwargs) -> CoAtNet:
    model = timm.create_model(name, **{**SMALL, 'img_size': (64, 96), **kwargs})
    return randomize_(model)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def transformed(model: CoAtNet, image: Image.Image) -> torch.Tensor:
    config = timm.data.resolve_model_data_config(model, {'input_size': (model.in_chans, *model.img_size)})
    return timm.data.create_transform(**config)(image)[None]


def test_command_writes_a_picture(tmp_path: Path) -> None:
    out = tmp_path / 'picture.png'
    out.write_bytes(b'an older one')
    text = output_of('explain', DIGIT, '--model', 'coatnet_atto', '--out', out)
    *classes, last = text.splitlines()
    assert len(classes) == 5 and classes[0].split()[1:] == ['3', '3'] and float(classes[0].split('%')[0]) > 80
    assert last == f'wrote {out}, with the evidence for class 3, 3'
    assert list(tmp_path.iterdir()) == [out]
    with Image.open(out) as written:
        assert (written.format, written.size) == ('PNG', (1200, 800))
        assert np.asarray(written.convert('L')).std() > 10


def test_command_takes_folders_and_a_class(tmp_path: Path) -> None:
    folder = tmp_path / 'folder'
    model = timm.create_model('coatnet_0', block_types='CCCC', **{**SMALL, 'num_classes': 1000})
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    text = output_of('explain', DIGIT, '--model', f'local-dir:{folder}', '--out', tmp_path / 'a.PNG', '--target', '817')
    assert 'sports car' in text and picture.NO_TABLES in text
    assert (tmp_path / 'a.PNG').stat().st_size > 10_000


@pytest.mark.parametrize('impl', ['timm', 'timm_bn', 'paper', 'chinhsuanwu', 'keras_cv'])
@pytest.mark.parametrize('target', [None, 2, 5])
def test_evidence_is_grad_cam_of_the_last_stage(impl: str, target: int | None) -> None:
    """Computed from what follows the last stage alone; and without a norm there, it adds up to the logit."""
    model, image = small(impl=impl), noise(120, 80)
    explanation = explain_image(image, model, target)
    with torch.no_grad():
        features = model.stages(model.stem(transformed(model, image)))
    features.requires_grad_()
    logits = model.forward_head(model.norm(features))[0]
    index = int(logits.argmax()) if target is None else target
    assert explanation.target.index == index
    (gradient,) = torch.autograd.grad(logits[index], features)
    expected = torch.einsum('c,chw->hw', gradient[0].mean((1, 2)), features[0]).detach()
    assert explanation.evidence.shape == (2, 3)
    np.testing.assert_allclose(explanation.evidence, expected, rtol=1e-3, atol=1e-5)
    if not model.cfg.final_norm:
        bias = model.get_classifier().bias
        wanted = logits[index] - (0 if bias is None else bias[index])
        assert explanation.evidence.sum() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-4)
    probabilities = logits.softmax(0).topk(5)
    assert [guess.index for guess in explanation.top] == probabilities.indices.tolist()
    assert [guess.probability for guess in explanation.top] == pytest.approx(probabilities.values.tolist(), rel=1e-3)


@pytest.mark.parametrize('dtype, atol', [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_optimized_models_are_explained_alike(dtype: torch.dtype, atol: float, digits: CoAtNet) -> None:
    expected = explain_image(open_image(DIGIT), digits)
    found = explain_image(open_image(DIGIT), optimize_for_inference(digits, dtype=dtype))
    assert found.target.index == 3 and found.target.probability == pytest.approx(expected.target.probability, abs=atol)
    atol *= np.abs(expected.evidence).max()
    np.testing.assert_allclose(found.evidence, expected.evidence, rtol=0, atol=atol)
    for ours, theirs in zip(found.tables, expected.tables, strict=True):
        np.testing.assert_allclose(ours.values, theirs.values, rtol=0, atol=0.02)


def test_model_is_left_as_it_was(digits: CoAtNet) -> None:
    before = {k: v.clone() for k, v in digits.state_dict().items()}
    with torch.no_grad():
        explain_image(open_image(DIGIT), digits)
    assert all(torch.equal(v, before[k]) for k, v in digits.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in digits.modules())


@pytest.mark.parametrize('rel_pos_type, output_stride', [('bias', None), ('mlp', None), ('bias', 16)])
def test_tables_are_those_of_the_model(rel_pos_type: str, output_stride: int | None) -> None:
    """Pair by pair what attention adds to its logits, and of the head that was made to stand out."""
    model = small(impl='timm', rel_pos_type=rel_pos_type, dim_head=16, output_stride=output_stride)
    wanted = {3: (2, 1), 4: (1, 4)}
    for stage, (block, head) in wanted.items():
        rel_pos = model.stages[stage - 1].blocks[block - 1].attn.rel_pos
        if rel_pos_type == 'bias':
            rel_pos.relative_position_bias_table.data[:, head - 1] *= 100
        else:
            rel_pos.mlp.fc2.weight.data[head - 1] *= 100
    tables = explain_image(noise(96, 64), model).tables
    assert {t.stage: (t.block, t.head) for t in tables} == wanted
    for table, (height, width) in zip(tables, [(4, 6), (2, 3)], strict=True):
        assert table.values.shape == (2 * height - 1, 2 * width - 1)
        attn = model.stages[table.stage - 1].blocks[table.block - 1].attn
        assert table.num_heads == attn.num_heads
        with torch.inference_mode():
            bias = expand_rel_pos_table(attn.rel_pos(height, width), height, width)[0, table.head - 1].numpy()
        for query in range(height * width):
            for key in range(height * width):
                dy, dx = query // width - key // width, query % width - key % width
                assert table.values[dy + height - 1, dx + width - 1] == pytest.approx(bias[query, key], rel=1e-5)


@pytest.mark.parametrize('block_types, stages', [('CTTT', [2, 3, 4]), ('CCCT', [4]), ('CCCC', [])])
def test_one_table_a_stage(block_types: str, stages: list[int]) -> None:
    assert [t.stage for t in explain_image(noise(96, 64), small(block_types=block_types)).tables] == stages


def test_picture_shows_what_was_found() -> None:
    table = BiasTable(3, 2, 1, 4, np.arange(15, dtype=np.float32).reshape(3, 5) - 4)
    explanation = explain_image(noise(96, 64), small(), 1)
    explanation = Explanation(**{**vars(explanation), 'tables': (table,)})
    figure = draw_explanation(explanation, 'an image, as seen by $x$')
    axes = {a.get_title().partition('\n')[0]: a for a in figure.findobj(lambda a: hasattr(a, 'get_title'))}
    drawn = axes['Stage 3, block 2'].images[0]
    np.testing.assert_array_equal(drawn.get_array(), table.values)
    assert drawn.origin == 'upper' and drawn.get_extent() == [-2.5, 2.5, 1.5, -1.5]  # dy=-1 above, dx=-2 on the left
    assert drawn.get_clim() == (-10, 10)
    assert drawn.get_cmap().name == 'RdBu_r'
    np.testing.assert_array_equal(axes['What the network saw'].images[0].get_array(), explanation.image)
    (title,) = (t for t in axes if t.startswith('Evidence for: class 1 ('))
    grey, evidence = axes[title].images
    np.testing.assert_array_equal(evidence.get_array(), explanation.evidence)
    low, high = evidence.get_clim()
    assert low == -high == -np.abs(explanation.evidence).max()
    opacity = evidence.to_rgba(np.array([-1, -0.5, -0.1, 0.1, 0.5, 1]) * high)[:, 3]
    assert opacity == pytest.approx([0.8, 0.4, 0.08, 0.08, 0.4, 0.8], abs=0.01)  # little evidence shows a little
    assert evidence.get_extent() == grey.get_extent() == [-0.5, 95.5, 63.5, -0.5]
    bars = axes['Most probable classes']
    assert [t.get_text() for t in bars.get_yticklabels()] == [g.name for g in explanation.top]
    assert [b.get_width() for b in bars.patches] == pytest.approx([g.probability for g in explanation.top])


@pytest.mark.parametrize('block_types', ['CCTT', 'CCCC'])
def test_a_photo_is_drawn_larger_than_its_pixels(block_types: str) -> None:
    figure = draw_explanation(explain_image(noise(64, 64), small(img_size=64, block_types=block_types)), 'title')
    figure.draw_without_rendering()
    (image,) = figure.findobj(lambda a: hasattr(a, 'get_title') and a.get_title().startswith('What the network saw'))
    assert image.get_window_extent().width >= 1.4 * 224  # at the 100 dpi of the written file


def test_no_evidence_has_no_colour() -> None:
    model = small(impl='timm')
    nn.init.zeros_(model.get_classifier().weight)
    figure = draw_explanation(explain_image(noise(96, 64), model), 'title')
    overlay = next(i for i in figure.findobj(lambda a: hasattr(a, 'get_clim')) if i.get_cmap().name == 'evidence')
    assert np.all(overlay.to_rgba(overlay.get_array())[..., 3] < 0.01)


def test_odd_names_and_labels_are_drawn(digits: CoAtNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = '$x^$ $\\frac{$ a_b%s{}\ntwo \udcff'
    (tmp_path / f'{odd}{"x" * 200}.png').write_bytes(DIGIT.read_bytes())
    out = tmp_path / 'out$_^{.png'
    output_of('explain', tmp_path / f'{odd}{"x" * 200}.png', '--model', 'coatnet_atto', '--out', out)
    assert out.stat().st_size > 10_000
    monkeypatch.setitem(digits.pretrained_cfg, 'label_names', [odd + 'x' * 9999] * 10)
    draw_explanation(explain_image(open_image(DIGIT), digits), odd).draw_without_rendering()


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems that need no model are named before one is loaded."""
    monkeypatch.setattr(timm, 'create_model', lambda *args, **kwargs: pytest.fail('a model was made'))


def explain_refusal(tmp_path: Path, image: Path = DIGIT, out: str = 'o.png', *args: str) -> str:
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob('*')}
    message = refusal('explain', image, '--model', 'coatnet_atto', '--out', tmp_path / out, *args)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob('*')} == before
    return message


PLACES = {
    'picture.pdf': 'does not end in .png',
    'file/o.png': 'There is no folder',
    'folder.png': 'is a folder',
    'broken.png': 'is a link, a pipe or a device',
    'pipe.png': 'is a link, a pipe or a device',
    'copy.png': 'is the image itself',
}


@pytest.mark.parametrize('out', PLACES)
def test_bad_places_for_the_picture(out: str, tmp_path: Path, no_model: None) -> None:
    image = tmp_path / 'copy.png'
    image.write_bytes(DIGIT.read_bytes())
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'link.png').symlink_to('file')
    (tmp_path / 'broken.png').symlink_to('nowhere')
    os.mkfifo(tmp_path / 'pipe.png')
    assert PLACES[out] in explain_refusal(tmp_path, image, out)


def test_what_is_said_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_model: None) -> None:
    assert 'There is no image' in explain_refusal(tmp_path, tmp_path / 'none.png')
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    assert explain_refusal(tmp_path).count("pip install 'coatnet-zoo[explain]'") == 1


def test_models_that_cannot_be_explained(tmp_path: Path) -> None:
    for target in ('10', '-1'):
        message = explain_refusal(tmp_path, DIGIT, 'o.png', '--target', target)
        assert f'There is no class {target}; the model has 10, 0 to 9' in message
    image = open_image(DIGIT)
    for model, message in (
        (small(num_classes=0), 'no classifier'),
        (small(global_pool=''), 'no classifier'),
        (small(in_chans=4), '4 channels'),
        (timm.create_model('resnet18'), 'complete CoAtNet'),
    ):
        with pytest.raises(ExplainError, match=message):
            explain_image(image, model)


def test_what_cannot_be_written_leaves_the_older_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    def savefig(self, path: Path, **kwargs) -> None:
        Path(path).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    assert 'cannot be written: File name too long' in explain_refusal(tmp_path, DIGIT, 'x' * 300 + '.png')
    monkeypatch.setattr(Figure, 'savefig', savefig)
    (tmp_path / 'o.png').write_bytes(b'older')
    assert 'o.png cannot be written: No space left on device.' in explain_refusal(tmp_path)
