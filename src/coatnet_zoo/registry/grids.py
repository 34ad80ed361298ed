"""Sizes of feature maps, and the number of relative offsets of a feature map."""


def feature_sizes(img_size: tuple[int, int], num_stages: int, patch_size: int | None = None) -> list[tuple[int, int]]:
    """(height, width) after every stage for an image size, rounded up.

    Args:
        img_size: (height, width) in pixels.
        num_stages: Number of stages.
        patch_size: Stride of a stem that cuts the image into patches; the stages then keep the resolution. None: the
            stem and every stage halve the resolution.
    """
    if patch_size is not None:
        return [(-(-img_size[0] // patch_size), -(-img_size[1] // patch_size))] * num_stages
    sizes = [img_size]
    for _ in range(num_stages + 1):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes[2:]


def num_offsets(size: tuple[int, int]) -> int:
    """The number of relative offsets of a (height, width) grid, which is the length of the position table."""
    return (2 * size[0] - 1) * (2 * size[1] - 1)
