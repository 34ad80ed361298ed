"""The sizes of CoAtNet as a table, and the configuration of a size in an implementation.

A new size needs one row: timm's entrypoint, the costs and the row of docs/models.md follow from it.
"""

from dataclasses import dataclass, field
from typing import Any

from .configs import CoAtNetCfg, field_types
from .impls import IMPLS


@dataclass(frozen=True)
class Size:
    """One registered name."""

    about: str  # one line, which is the documentation of timm's entrypoint
    stages: dict[str, Any]  # the fields of `CoAtNetCfg` for the number and the width of blocks
    # The implementations, the default first, each with the fields that differ from stages and flavour. A third-party
    # code names its sizes in its own row in `IMPLS`.
    impls: dict[str, dict[str, Any]] = field(default_factory=lambda: {'paper': {}})


def _vit_rel(width: int) -> dict[str, Any]:
    """A ViT_REL in four equal stages, with patches instead of convolutions and the head of timm's ViTs."""
    return dict(
        stem_width=(width,), embed_dim=(width,) * 4, depths=(3, 3, 3, 3), block_types='TTTT', dim_head=64,
        patch_size=16, stem_bias=True, head_hidden=False,
    )  # fmt: skip


# timm changed details between trainings; several rows share these details.
_TIMM_EARLY = dict(se_early=True, attn_shortcut_bias=False)
_TIMM_NANO = dict(pre_norm_act=False, conv_out_bias=True, se_act='silu')
_TIMM_STEM = dict(stem_width=(32, 64))
# The third stage of the largest networks begins with MBConv.
_C_THEN_T = dict(depths=(2, 4, 50, 2), block_types=('C', 'C', 'C' * 8 + 'T' * 42, 'T'), dim_head=128)

SIZES: dict[str, Size] = {
    'coatnet_atto': Size(
        'CoAtNet below 1 M parameters, for tests, demos and small images.',
        dict(stem_width=(16, 16), embed_dim=(16, 32, 64, 96), depths=(1, 2, 2, 2)),
    ),
    'coatnet_nano': Size(
        "timm's CoAtNet-nano.",
        dict(stem_width=(32, 64), embed_dim=(64, 128, 256, 512), depths=(3, 4, 6, 3)),
        {'timm': dict(_TIMM_NANO, conv_stride='pool'), 'timm_rmlp': dict(_TIMM_NANO, rel_pos_dim=384)},
    ),
    'coatnet_0': Size(
        'CoAtNet-0.',
        dict(stem_width=(64, 64), embed_dim=(96, 192, 384, 768), depths=(2, 3, 5, 2)),
        {
            'timm': dict(_TIMM_STEM, **_TIMM_EARLY, depths=(2, 3, 7, 2), conv_stride='pool'),
            'timm_bn': dict(_TIMM_STEM, **_TIMM_EARLY, depths=(2, 3, 7, 2)),
            'paper': {},
        },
    ),
    'coatnet_1': Size(
        'CoAtNet-1.',
        dict(stem_width=(64, 64), embed_dim=(96, 192, 384, 768), depths=(2, 6, 14, 2)),
        {
            'timm': dict(_TIMM_STEM, **_TIMM_EARLY),
            'timm_rmlp': dict(_TIMM_STEM, **_TIMM_EARLY, conv_stride='pool', pool_type='max', rel_pos_dim=384),
            'timm_rmlp2': _TIMM_STEM,
            'paper': {},
        },
    ),
    'coatnet_2': Size(
        'CoAtNet-2.',
        dict(stem_width=(128, 128), embed_dim=(128, 256, 512, 1024), depths=(2, 6, 14, 2)),
        {
            'timm': dict(stem_width=(64, 128), se_act='silu'),
            'timm_rmlp': dict(stem_width=(64, 128), se_act='silu', init_values=1e-6),
            'paper': {},
        },
    ),
    'coatnet_3': Size(
        'CoAtNet-3.',
        dict(stem_width=(192, 192), embed_dim=(192, 384, 768, 1536), depths=(2, 6, 14, 2)),
        {'timm': dict(stem_width=(96, 192), se_act='silu', init_values=1e-6), 'paper': {}},
    ),
    'coatnet_4': Size(
        'CoAtNet-4.',
        dict(stem_width=(192, 192), embed_dim=(192, 384, 768, 1536), depths=(2, 12, 28, 2)),
    ),
    'coatnet_5': Size(
        'CoAtNet-5, 687 M parameters.',
        dict(stem_width=(192, 192), embed_dim=(256, 512, 1280, 2048), depths=(2, 12, 28, 2), dim_head=64),
    ),
    'coatnet_6': Size(
        'CoAtNet-6, 1.47 B parameters.',
        # The paper prints 2048 for the last width, but its parameters and multiply-adds are those of 3072.
        dict(stem_width=(192, 192), embed_dim=(192, 384, (768,) * 8 + (1536,) * 42, 3072), **_C_THEN_T),
    ),
    'coatnet_7': Size(
        'CoAtNet-7, 2.44 B parameters.',
        dict(stem_width=(192, 192), embed_dim=(256, 512, (1024,) * 8 + (2048,) * 42, 3072), **_C_THEN_T),
    ),
    'vit_rel_tiny': Size("ViT_REL of the size of timm's `vit_tiny_patch16_224`.", _vit_rel(192)),
    'vit_rel_small': Size("ViT_REL of the size of timm's `vit_small_patch16_224`.", _vit_rel(384)),
    'vit_rel_base': Size("ViT_REL of the size of timm's `vit_base_patch16_224`.", _vit_rel(768)),
}


def list_impls(size: str) -> list[str]:
    """The implementations of a size (a registered name without tag, e.g. `coatnet_1`), the default first."""
    own = SIZES[size].impls
    return [*own, *(impl for impl, row in IMPLS.items() if size in row.sizes and impl not in own)]


def known_impl(size: str, impl: str) -> str:
    """The implementation of a size as the tables spell it. The case of letters does not matter.

    Raises:
        ValueError: If the size has no such implementation. The message lists those that the size has.
    """
    known = str(impl).lower()
    if known not in list_impls(size):
        raise ValueError(f'{size} has no impl={impl!r}; it has {", ".join(list_impls(size))}.')
    return known


def resolve_cfg(size: str, impl: str, **overrides: Any) -> CoAtNetCfg:
    """The configuration of a size in an implementation.

    Args:
        size: Registered name without tag, e.g. `coatnet_1`.
        impl: Implementation, one of `list_impls(size)`. The case of letters does not matter.
        **overrides: Fields of `CoAtNetCfg` that replace the fields of the tables.

    Raises:
        ValueError: If the size has no such implementation, or a value is bad.
        TypeError: If an override is not a field of `CoAtNetCfg`.
    """
    impl = known_impl(size, impl)
    known = field_types().keys() - {'impl'}
    unknown = sorted(overrides.keys() - known)
    if unknown:
        raise TypeError(
            f'{size} has no argument {", ".join(unknown)}; structural arguments are {", ".join(sorted(known))}.'
        )
    row = SIZES[size]
    differences = row.impls.get(impl) or IMPLS[impl].sizes.get(size) or {}
    return CoAtNetCfg(impl=impl, **{**IMPLS[impl].flavour, **row.stages, **differences, **overrides})
