"""batchgeneratorsv2, the transforms of nnU-Net."""

from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

both = ComposeTransforms([MirrorTransform((0, 1)), RandomTransform(GaussianNoiseTransform(), apply_probability=0.5)])
