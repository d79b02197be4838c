# ruff: noqa: F821
"""The cell that run_notebook.py adds behind the last one, in the notebook's kernel.

It shows all numbers as JSON and, as a GIF, a round trip through the example images on
straight lines between their codes: left the autoencoder, right the VAE.
"""

import base64
import io
import json

import keras
import numpy as np
import PIL.Image
import tensorflow as tf
from IPython.display import display

trainings = {"Autoencoder": autoencoder_training, "VAE": vae_training}
numbers = {
    "source": SOURCE,
    "parameters": {name: globals()[name] for name in parameter_names},
    "versions": {module.__name__: module.__version__ for module in (tf, keras, np)},
    "results": results,
    "history": {name: training.history for name, training in trainings.items()},
    "figures": str(FIGURES),
}
frames = []
for start, end in zip(examples, np.roll(examples, -1, axis=0)):
    lines = [interpolate(models[name], start, end, 6)[0][:-1] for name in trainings]
    for picture in np.concatenate(lines, axis=2)[..., 0]:
        frame = PIL.Image.fromarray(np.uint8(255 - 255 * picture))
        frame = frame.resize((4 * frame.width, 4 * frame.height), 0)
        frames.append(frame.quantize(16))
gif, options = io.BytesIO(), {"duration": 125, "loop": 0, "save_all": True}
frames[0].save(gif, "gif", append_images=frames[1:], **options)
content = {
    # with NumPy's numbers and arrays as Python's
    "text/plain": json.dumps(numbers, default=lambda x: np.asarray(x).tolist()),
    "image/gif": base64.b64encode(gif.getvalue()).decode(),
}
display(content, raw=True)
