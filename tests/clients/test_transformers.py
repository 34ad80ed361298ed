"""transformers: loading, pipeline, Trainer, and the way back to timm."""

import argparse
from pathlib import Path

import pytest
import timm
import torch
from clients import DUPLICATE, LABELS, arguments, assert_same, client, draw_images, images, save, small, whose
from PIL import Image
from timm.utils import CheckpointSaver

from coatnet_zoo import convert_checkpoint

transformers = client('transformers')


@whose(DUPLICATE)
def test_auto_classes_load_a_saved_folder(whose: str, tmp_path: Path) -> None:
    model = small(whose).eval()
    folder = save(model, tmp_path / 'folder')
    files = draw_images(tmp_path / 'images')
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor([Image.open(file) for file in files], return_tensors='pt')
    loaded = transformers.AutoModelForImageClassification.from_pretrained(folder)
    assert_same(loaded(**pixels).logits, model(pixels['pixel_values']))
    assert loaded.config.id2label == dict(enumerate(LABELS))
    in_timm = timm.create_model(f'local-dir:{folder}', pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(in_timm))
    assert torch.equal(pixels['pixel_values'][0], transform(Image.open(files[0]).convert('RGB')))
    backbone = transformers.AutoModel.from_pretrained(folder)
    assert_same(backbone(**pixels).last_hidden_state, model.forward_features(pixels['pixel_values']))


@whose(DUPLICATE)
@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'RGBA'])
def test_pipeline_on_files(whose: str, mode: str, tmp_path: Path) -> None:
    folder = save(small(whose), tmp_path / 'folder')
    (file, *_) = draw_images(tmp_path / 'images')
    Image.open(file).convert(mode).save(file)
    found = transformers.pipeline('image-classification', model=str(folder))(str(file))
    assert {answer['label'] for answer in found} == set(LABELS)
    assert sum(answer['score'] for answer in found) == pytest.approx(1, abs=1e-4)


def trainer(folder: Path, out: Path, data: list[dict]) -> 'transformers.Trainer':
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    args = transformers.TrainingArguments(
        str(out), num_train_epochs=2, per_device_train_batch_size=4, save_strategy='epoch', report_to=[], use_cpu=True,
        learning_rate=1e-3, disable_tqdm=True,
    )  # fmt: skip
    return transformers.Trainer(model, args, train_dataset=data)


@whose(DUPLICATE)
def test_trainer_resumes_and_goes_back_to_timm(whose: str, tmp_path: Path) -> None:
    folder = save(small(whose), tmp_path / 'folder')
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    data = [
        dict(pixel_values=processor(Image.open(f))['pixel_values'][0], labels=LABELS.index(f.parent.name))
        for f in draw_images(tmp_path / 'images')
    ]
    whole = trainer(folder, tmp_path / 'out', data)
    whole.train()
    resumed = trainer(folder, tmp_path / 'again', data)
    resumed.train(resume_from_checkpoint=str(tmp_path / 'out' / 'checkpoint-3'))
    expected = whole.model.state_dict()
    for key, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6, msg=key)
    resumed.save_model(str(tmp_path / 'tuned'))

    x = images()
    logits = resumed.model.eval()(x).logits
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / 'tuned')
    assert_same(again(x).logits, logits)
    back = timm.create_model(f'local-dir:{tmp_path / "tuned"}', pretrained=True).eval()
    assert_same(back(x), logits)
    assert (back.num_classes, back.pretrained_cfg['label_names']) == (3, LABELS)


def test_auto_classes_load_what_train_py_saved_once_it_is_converted(tmp_path: Path) -> None:
    model, x = small('ours', img_size=224), images()  # train.py builds networks for their native size
    args = argparse.Namespace(model='coatnet_0', model_kwargs=arguments('ours'), num_classes=3, img_size=64, mean=[0.4])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    saver = CheckpointSaver(model, optimizer, args=args, checkpoint_dir=tmp_path, recovery_dir=tmp_path)
    saver.save_checkpoint(0, metric=50.0)
    convert_checkpoint(tmp_path / 'model_best.pth.tar', tmp_path / 'out', labels=LABELS)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / 'out')
    assert_same(loaded.eval()(x).logits, model.eval()(x))
    assert loaded.config.id2label == dict(enumerate(LABELS))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / 'out')
    file = draw_images(tmp_path / 'images')[0]
    pixels = processor(Image.open(file), return_tensors='pt')['pixel_values']
    config = timm.data.resolve_model_data_config(timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True))
    assert list(config['mean']) == [0.4] * 3 and pixels.shape == (1, 3, 64, 64)
    assert torch.equal(pixels[0], timm.data.create_transform(**config)(Image.open(file).convert('RGB')))
