"""The published weights as a table, and their default configurations for timm's registry.

timm's checkpoints are on the Hugging Face Hub as `timm/<name>` under Apache-2.0. Their preprocessing is from timm's
default configurations, and their accuracy on ImageNet-1k is from timm's results-imagenet.csv. The digits weights are
part of this package. The weights of keras_cv_attention_models are on the GitHub release page of that project under MIT,
and their accuracies are from its README.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import SAFETENSORS
from .sizes import SIZES

RELEASE_HOST = 'https://github.com'
INTERPOLATIONS = ('bicubic', 'bilinear', 'nearest', 'box', 'hamming', 'lanczos')  # timm's names


@dataclass(frozen=True)
class Weights:
    """One set of published weights."""

    impl: str  # that the weights need
    hf_hub_id: str | None  # repository on the Hub; None for weights that are bundled or on a release page
    data: str  # the training data
    top1: float | None = None  # accuracy in percent on the validation data; None if none is published
    top5: float | None = None
    cfg: dict[str, Any] | None = None  # the entries that differ from `_DEFAULT_CFG`
    release: str | None = None  # path of a `.h5` file on `RELEASE_HOST`, for weights on a release page
    md5: str | None = None  # of the `.h5` file


_IN1K = 'ImageNet-1k'
_IN12K = 'ImageNet-12k'
_IN12K_FT = 'ImageNet-12k, then ImageNet-1k'
_IN12K_CFG = dict(num_classes=11821)
_NANO_CFG = dict(crop_pct=0.9)
_IMAGENET_NORM = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_384_CFG = dict(input_size=(3, 384, 384), pool_size=(12, 12), crop_pct=1.0, crop_mode='squash')
_DIGITS_CFG = dict(
    num_classes=10, label_names=tuple('0123456789'),
    input_size=(1, 64, 64), pool_size=(2, 2), crop_pct=1.0, interpolation='bilinear', mean=(0.5,), std=(0.5,),
)  # fmt: skip
# The preprocessing of the models (`rescale_mode`) and of the evaluation script of keras_cv_attention_models.
_KECAM_CFG = dict(_IMAGENET_NORM, license='mit', crop_pct=0.95, interpolation='bicubic')
_KECAM = 'leondgarse/keras_cv_attention_models/releases/download/coatnet'

# The first tag of a size is the default of the size. The first tag of an implementation is its default.
WEIGHTS: dict[str, Weights] = {
    'coatnet_atto.digits': Weights('paper', None, "scikit-learn's digits", 100.0, cfg=_DIGITS_CFG),
    'coatnet_nano.sw_in1k': Weights('timm', 'timm/coatnet_nano_rw_224.sw_in1k', _IN1K, 81.704, 95.650, _NANO_CFG),
    'coatnet_nano.rmlp_sw_in1k':
        Weights('timm_rmlp', 'timm/coatnet_rmlp_nano_rw_224.sw_in1k', _IN1K, 82.064, 95.874, _NANO_CFG),
    'coatnet_0.sw_in1k': Weights('timm', 'timm/coatnet_0_rw_224.sw_in1k', _IN1K, 82.396, 95.844),
    'coatnet_0.bn_sw_in1k':
        Weights('timm_bn', 'timm/coatnet_bn_0_rw_224.sw_in1k', _IN1K, 82.394, 96.194, _IMAGENET_NORM),
    'coatnet_0.kecam_in1k':
        Weights('keras_cv', None, _IN1K, 82.79, cfg=_KECAM_CFG,
                release=f'{_KECAM}/coatnet0_224_imagenet.h5', md5='5d1e563f959f7efb6d395bde7373ed26'),
    'coatnet_0.kecam_in1k_160':
        Weights('keras_cv', None, _IN1K, 80.48, cfg=dict(_KECAM_CFG, input_size=(3, 160, 160), pool_size=(5, 5)),
                release=f'{_KECAM}/coatnet0_160_imagenet.h5', md5='bc4375d2f03b99ac4252770331f0d22f'),
    'coatnet_1.sw_in1k': Weights('timm', 'timm/coatnet_1_rw_224.sw_in1k', _IN1K, 83.620, 96.382),
    'coatnet_1.rmlp_sw_in1k': Weights('timm_rmlp', 'timm/coatnet_rmlp_1_rw_224.sw_in1k', _IN1K, 83.350, 96.452),
    'coatnet_1.rmlp2_sw_in12k_ft_in1k':
        Weights('timm_rmlp2', 'timm/coatnet_rmlp_1_rw2_224.sw_in12k_ft_in1k', _IN12K_FT, 84.940, 96.968),
    'coatnet_1.rmlp2_sw_in12k': Weights('timm_rmlp2', 'timm/coatnet_rmlp_1_rw2_224.sw_in12k', _IN12K, cfg=_IN12K_CFG),
    'coatnet_2.sw_in12k_ft_in1k': Weights('timm', 'timm/coatnet_2_rw_224.sw_in12k_ft_in1k', _IN12K_FT, 86.582, 97.896),
    'coatnet_2.sw_in12k': Weights('timm', 'timm/coatnet_2_rw_224.sw_in12k', _IN12K, cfg=_IN12K_CFG),
    'coatnet_2.rmlp_sw_in1k': Weights('timm_rmlp', 'timm/coatnet_rmlp_2_rw_224.sw_in1k', _IN1K, 84.608, 96.744),
    'coatnet_2.rmlp_sw_in12k': Weights('timm_rmlp', 'timm/coatnet_rmlp_2_rw_224.sw_in12k', _IN12K, cfg=_IN12K_CFG),
    'coatnet_2.rmlp_sw_in12k_ft_in1k':
        Weights('timm_rmlp', 'timm/coatnet_rmlp_2_rw_224.sw_in12k_ft_in1k', _IN12K_FT, 86.538, 97.894),
    'coatnet_2.rmlp_sw_in12k_ft_in1k_384':
        Weights('timm_rmlp', 'timm/coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k', _IN12K_FT, 87.388, 98.312, _384_CFG),
    'coatnet_3.sw_in12k': Weights('timm', 'timm/coatnet_3_rw_224.sw_in12k', _IN12K, cfg=_IN12K_CFG),
}  # fmt: skip

_DEFAULT_CFG: dict[str, Any] = dict(
    num_classes=1000, classifier='head.fc', first_conv='stem.conv1',
    input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=0.95, interpolation='bicubic',
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    paper_name='CoAtNet: Marrying Convolution and Attention for All Data Sizes', paper_ids='arXiv:2106.04803',
)  # fmt: skip


def untrained_cfg(size: str) -> dict[str, Any]:
    """The pretrained configuration of a size (e.g. `coatnet_4`) that has no published weights."""
    patch_size = SIZES[size].stages.get('patch_size')
    return {**_DEFAULT_CFG, **(dict(pool_size=(224 // patch_size,) * 2) if patch_size else {})}


def bundled_file(name: str) -> Path:
    """The file of the bundled weights `name` (e.g. `coatnet_atto.digits`).

    A wheel has bundled weights inside the package; a checkout has them in `weights/` at the top.
    """
    inside = Path(__file__).parents[1] / 'weights'
    folder = inside if inside.is_dir() else Path(__file__).parents[3] / 'weights'
    return folder / name / SAFETENSORS


def weights_cfg(name: str) -> dict[str, Any]:
    """The pretrained configuration of weights, e.g. `coatnet_1.sw_in1k`: preprocessing, classes, licence, source."""
    weights = WEIGHTS[name]
    cfg = {**_DEFAULT_CFG, 'license': 'apache-2.0', **(weights.cfg or {})}
    if weights.release is not None:
        return {**cfg, 'url': f'{RELEASE_HOST}/{weights.release}'}
    if weights.hf_hub_id is None:
        return {**cfg, 'file': str(bundled_file(name))}
    # A file name keeps timm from falling back to a pickle.
    return {**cfg, 'hf_hub_id': weights.hf_hub_id, 'hf_hub_filename': SAFETENSORS}


def all_cfgs() -> dict[str, dict[str, Any]]:
    """The pretrained configurations of all names with tags, for timm's `generate_default_cfgs`."""
    untrained = {f'{size}.untrained': untrained_cfg(size) for size in SIZES if not tags_of(size)}
    return {name: weights_cfg(name) for name in WEIGHTS} | untrained


def default_cfg(size: str, impl: str) -> dict[str, Any]:
    """The pretrained configuration of a size (e.g. `coatnet_1`) in an implementation, with its first tag, if any."""
    tag = next((tag for tag, needed in tags_of(size).items() if needed == impl), None)
    return untrained_cfg(size) if tag is None else weights_cfg(f'{size}.{tag}')


def tags_of(size: str) -> dict[str, str]:
    """The tags of a size (e.g. `coatnet_1`), the default first, each with the implementation that its weights need."""
    return {name.partition('.')[2]: w.impl for name, w in WEIGHTS.items() if name.partition('.')[0] == size}
