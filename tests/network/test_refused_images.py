"""Images that no network takes: sizes are refused when the model is made, whole numbers when it is called."""

import pytest
import timm
import torch


@pytest.mark.parametrize('img_size', [16, 31, (224, 16), (16, 224), 10_000, 0, -224])
def test_sizes_of_images_that_no_network_takes(img_size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r'^img_size=.* must be .* a whole number of pixels from 32 to 8192\.$'):
        timm.create_model('coatnet_1', img_size=img_size, device='meta')
    model = timm.create_model('coatnet_atto')
    with pytest.raises(ValueError, match='a whole number of pixels from 32 to 8192'):
        model.set_input_size(img_size)
    assert model.img_size == (64, 64)


WHOLE_NUMBERS = {
    'eager': lambda model: model,
    'features': lambda model: model.forward_features,
    'scripted': torch.jit.script,
    'traced by fx': torch.fx.symbolic_trace,
}


@pytest.mark.parametrize('how', WHOLE_NUMBERS)
def test_images_of_whole_numbers_are_refused(how: str) -> None:
    """And images in floating point give the same logits as ever."""
    model = timm.create_model('coatnet_atto', pretrained=True).eval()
    called, images = WHOLE_NUMBERS[how](model), torch.rand(1, 1, 64, 64)
    expected = model.forward_features(images) if how == 'features' else model(images)
    torch.testing.assert_close(called(images), expected)
    for dtype in (torch.uint8, torch.int64):
        with pytest.raises(Exception, match=r'CoAtNet needs images in floating point; .*timm\.data\.create_transform'):
            called(torch.zeros(1, 1, 64, 64, dtype=dtype))


def test_patches_of_whole_numbers_are_refused() -> None:
    with pytest.raises(AssertionError, match='CoAtNet needs images in floating point'):
        timm.create_model('vit_rel_tiny', img_size=32)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
