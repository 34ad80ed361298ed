"""Keeping the resolution of a stage that strides, with the weights as they are: see `CoAtNetCfg.output_stride`.

A stage of stride 2 computes an output at every second position of its input. The same stage on the input shifted by one
position computes the outputs between. All shifts (phases) together give a map of the resolution of the input. Inside a
phase, neighbours are as far apart in pixels as in training, so convolutions and position tables fit without a
change. For convolutions this is dilation; for attention it also keeps the number of positions that a softmax sees.
"""

import torch


def _taps(side: int, phases: int, device: torch.device) -> torch.Tensor:
    """The positions along one side that every phase reads, (phases, length of a phase).

    A phase that is too short repeats its last position, which pooling ignores.
    """
    step = phases // 2  # neighbours of a phase are as far apart as the stages before have left phases
    first = torch.arange(phases, device=device)[:, None]
    last = side - 1 - (side - 1 - first) % step
    length = (side + phases - 1) // phases * 2
    return torch.minimum(first + step * torch.arange(length, device=device), last)


@torch.fx.wrap
def split_phases(x: torch.Tensor, phases: int) -> torch.Tensor:
    """Take a feature map apart into the maps that a stage of stride 2 is computed on.

    Args:
        x: (B, C, H, W), with H and W at least `phases`.
        phases: Phases along each side: 2 for the first stage that keeps the resolution, 4 for the next stage.

    Returns:
        (phases * phases * B, C, 2 * ceil(H/phases), 2 * ceil(W/phases)).
    """
    rows, cols = _taps(x.shape[2], phases, x.device), _taps(x.shape[3], phases, x.device)
    x = x.index_select(2, rows.flatten()).index_select(3, cols.flatten())
    x = x.unflatten(3, (phases, cols.shape[1])).unflatten(2, (phases, rows.shape[1]))
    return x.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)


@torch.fx.wrap
def join_phases(x: torch.Tensor, phases: int, height: int, width: int) -> torch.Tensor:
    """Put the outputs of all phases between each other.

    Args:
        x: (phases * phases * B, C, ceil(height/phases), ceil(width/phases)).
        phases: As for `split_phases`.
        height: Rows of the map that `split_phases` took apart.
        width: Columns of that map.

    Returns:
        (B, C, height, width).
    """
    x = x.unflatten(0, (phases, phases, x.shape[0] // (phases * phases))).permute(2, 3, 4, 0, 5, 1)
    x = x.flatten(4, 5).flatten(2, 3)
    # A slice would limit an exported graph to some sizes.
    rows, cols = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    return x.index_select(2, rows).index_select(3, cols)
