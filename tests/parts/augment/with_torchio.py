"""TorchIO."""

import torchio

both = torchio.Compose([torchio.RandomFlip(axes=(0, 1)), torchio.RandomNoise(std=(0, 0.2))])
