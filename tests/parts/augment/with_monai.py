"""MONAI's transforms of mappings, as its tutorials use them."""

from monai.transforms import Compose, RandAffined, RandBiasFieldd, RandFlipd, RandGaussianNoised

KEYS = ["img", "seg"]
both = Compose(
    [
        RandFlipd(keys=KEYS, prob=0.5, spatial_axis=1),
        RandAffined(keys=KEYS, prob=0.5, rotate_range=0.3, mode=("bilinear", "nearest"), padding_mode="border"),
        RandGaussianNoised(keys="img", prob=0.5),
    ]
)
image_alone = Compose([RandFlipd(keys="img", prob=0.5, spatial_axis=1), RandBiasFieldd(keys="img", prob=0.1)])
soft_mask = RandAffined(keys=KEYS, prob=0.9, rotate_range=0.3)
