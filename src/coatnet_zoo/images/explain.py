"""How a model classifies an image, where in the image the evidence is, and what the model learned about positions."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from coatnet_zoo_runtime import prepare

from ..errors import ExplainError
from ..network import CoAtNet, RelPosBias, RelPosMlp
from ..registry import feature_sizes
from .predict import Guess
from .reading import classifier_problem, data_config, known_labels

_TOP = 5


@dataclass(frozen=True)
class BiasTable:
    """The relative position bias of one head."""

    stage: int  # number of the stage, from 1
    block: int  # number of the block in the stage, from 1
    head: int  # number of the head in the block, from 1
    num_heads: int  # of the block
    # (2 * height - 1, 2 * width - 1) for a feature map of height x width; the row dy + height - 1 and the column
    # dx + width - 1 are for a query that lies (dy, dx) after its key. Attention adds the values to its logits.
    values: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """How a model classifies an image, and where in the image the evidence is."""

    image: np.ndarray  # input of the network, cropped and resized: (H, W, 3), or (H, W) for one channel; in [0, 1]
    top: tuple[Guess, ...]  # the most probable classes, at most five, the most probable class first
    target: Guess  # the class of `evidence`
    # (h, w) of the feature map of the last stage: how much each place adds to the logit, see `explain_image`.
    evidence: np.ndarray
    tables: tuple[BiasTable, ...]  # one of each stage that has Transformer blocks with a relative position bias


def explain_image(image: Image.Image, model: CoAtNet, target: int | None = None) -> Explanation:
    """Explain how a model classifies an image, and where in the image the evidence is.

    The evidence is Grad-CAM (Selvaraju et al., arXiv 1610.02391) over the last stage, including its negative part:
    features weighted by the mean over all places of the gradient of the logit. If a linear classifier follows the
    average pooling (`chinhsuanwu`, `keras_cv`), the evidence of a place is its part of the logit, without the bias. In
    other networks, the evidence is that part to first order. If a norm follows the pooling (`paper`), positive and
    negative evidence balance. The evidence is over the last stage and not over the final norm, because after timm's
    final norm, empty places have features as large as all other places. Variants that multiply gradient and features
    place by place (HiResCAM) do not work here, because their products cancel before the final norm.

    Of the position tables of a stage, the result has the table whose values differ most (largest standard deviation).

    Args:
        image: An image of any mode and size. The image is prepared for `model.img_size` with the configuration of the
            model. Transparency becomes white.
        model: A CoAtNet on any device and in any precision, also one from `optimize_for_inference`. The call puts the
            model into evaluation mode.
        target: The class of the evidence. Default: the most probable class.

    Raises:
        ExplainError: If the model is not a complete CoAtNet with a classifier, takes neither one channel nor three, has
            no mean and std for its channels, or has no class `target`.
    """
    _check(model, target)
    config = data_config(model, model.img_size)
    pixels = torch.from_numpy(prepare(image, config))
    logits, chosen, evidence = _grad_cam(model.eval(), pixels, target)
    labels, probabilities = known_labels(model), logits.softmax(0).tolist()
    order = logits.argsort(descending=True, stable=True).tolist()
    guesses = {i: Guess(i, labels and labels[i], probabilities[i]) for i in order}
    std, mean = (torch.tensor(config[key]).view(-1, 1, 1) for key in ('std', 'mean'))
    seen = (pixels * std + mean).clamp(0, 1)
    return Explanation(
        image=seen.permute(1, 2, 0).squeeze(2).numpy(),
        top=tuple(guesses.values())[:_TOP],
        target=guesses[chosen],
        evidence=evidence.numpy(),
        tables=_tables(model),
    )


def _grad_cam(model: CoAtNet, pixels: torch.Tensor, target: int | None) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Compute the logits, the class, and the evidence (h, w) for the class."""
    with torch.inference_mode(False):
        with torch.no_grad():
            features = model.stages(model.stem(pixels[None].to(next(model.parameters()))))
        features.requires_grad_()
        with torch.enable_grad():
            logits = model.forward_head(model.norm(features))[0]
            chosen = int(logits.argmax()) if target is None else target
            (gradient,) = torch.autograd.grad(logits[chosen], features)
    evidence = torch.einsum('c,chw->hw', gradient[0].mean((1, 2)).float(), features[0].detach().float())
    return logits.detach().float().cpu(), chosen, evidence.cpu()


def _check(model: CoAtNet, target: int | None) -> None:
    if not isinstance(model, CoAtNet):
        raise ExplainError('Only a complete CoAtNet can be explained, not a part of one.')
    if problem := classifier_problem(model):
        raise ExplainError(problem)
    if target is not None and not 0 <= target < model.num_classes:
        last = model.num_classes - 1
        raise ExplainError(f'There is no class {target}; the model has {last + 1}, 0 to {last}.')


@torch.no_grad()
def _tables(model: CoAtNet) -> tuple[BiasTable, ...]:
    """The table of each stage whose values differ most."""
    found, sizes = [], feature_sizes(model.img_size, len(model.stages), model.cfg.patch_size)
    for s, (stage, size) in enumerate(zip(model.stages, sizes, strict=True), start=1):
        height, width = (min(side, model.cfg.attn_window or side) for side in size)
        tables = []
        for b, block in enumerate(stage.blocks, start=1):
            for module in block.modules():
                if isinstance(module, (RelPosBias, RelPosMlp)):
                    table = module(height, width).float().cpu()
                    heads = table.T.reshape(-1, 2 * height - 1, 2 * width - 1).numpy()
                    tables += [BiasTable(s, b, h, len(heads), values) for h, values in enumerate(heads, start=1)]
        if tables:
            found.append(max(tables, key=lambda table: table.values.std()))
    return tuple(found)
