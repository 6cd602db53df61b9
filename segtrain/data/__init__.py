"""From a folder of patients to batches: sources, preparation, store, splits, order, augmentation, feed."""
