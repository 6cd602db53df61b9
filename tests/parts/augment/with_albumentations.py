"""albumentations, which seeds its generators from the system."""

import albumentations as A

geometric = A.Compose([A.HorizontalFlip(p=0.5), A.Affine(rotate=(-20, 20), p=0.5), A.RandomRotate90(p=0.5)])
bright = A.Compose([A.HorizontalFlip(p=0.5), A.RandomBrightnessContrast(p=0.5)])
normalised = A.Compose([A.HorizontalFlip(p=0.5), A.Normalize()])


def flip(chance=0.5):
    return A.HorizontalFlip(p=chance)


def misspelt():
    return A.HorizontalFlip(probability=0.1)


class Inside:
    """A user's class around it."""

    def __init__(self, p=0.5):
        self.steps = A.Compose([A.HorizontalFlip(p=p), A.GridDistortion(p=p)])

    def __call__(self, image, mask):
        result = self.steps(image=image, mask=mask)
        return result["image"], result["mask"]
