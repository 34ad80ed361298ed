"""Builds CoAtNets of keras_cv_attention_models with random weights and saves them with their outputs.

python keras_cv_peer.py FOLDER '{"CoAtNet0": {"model": "CoAtNet0", "input_shape": [160, 160, 3]}}'

`originals.keras_cv_models` runs this script with tensorflow 2.15. FOLDER gets a folder for every entry, with `model.h5`
(the whole model), `weights.h5` (weights only) and `expected.npz`: images `x`, (2, height, width, channels), and
`logits`. With `initial`, the folder gets only `weights.h5`, with the initial values. `model` names a function of that
package, by default `CoAtNet`; all other entries are arguments of that function.
"""

import json
import sys
from pathlib import Path

import numpy as np
from keras_cv_attention_models import coatnet


def randomize(model, rng: np.random.Generator) -> None:
    """Set random weights and moving statistics that all affect the outputs, see `peers.randomize_`."""
    for weight in model.weights:
        kind = weight.name.split('/')[-1].partition(':')[0]
        shape = weight.shape
        if kind in ('gamma', 'moving_variance'):
            value = rng.uniform(0.5, 1.5, shape)
        elif kind == 'positional_embedding':
            value = rng.normal(0.0, 0.5, shape)
        elif len(shape) > 1:
            # The last axis of a kernel is its outputs; a depthwise kernel has only its window for inputs.
            fan_in = np.prod(shape[:2] if kind == 'depthwise_kernel' else shape[:-1])
            value = rng.normal(0.0, fan_in**-0.5, shape)
        else:
            value = rng.normal(0.0, 0.1, shape)
        weight.assign(value.astype('float32'))


def save(folder: Path, model: str = 'CoAtNet', initial: bool = False, **arguments) -> None:
    """Build one network and save its initial weights; or randomize, run and save the network."""
    network = getattr(coatnet, model)(pretrained=None, classifier_activation=None, **arguments)
    folder.mkdir()
    if initial:
        network.save_weights(folder / 'weights.h5')
        return
    rng = np.random.default_rng(0)
    randomize(network, rng)
    # The contrast of the noise differs from image to image, because networks average plain noise away.
    x = rng.normal(size=(2, *network.input_shape[1:])) * np.array([0.5, 2.0]).reshape(2, 1, 1, 1)
    x = x.astype('float32')
    np.savez(folder / 'expected.npz', x=x, logits=network.predict(x, verbose=0))
    network.save(folder / 'model.h5')
    network.save_weights(folder / 'weights.h5')


if __name__ == '__main__':
    for name, spec in json.loads(sys.argv[2]).items():
        save(Path(sys.argv[1]) / name, **spec)
