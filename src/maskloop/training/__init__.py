"""Fine-tuning: patches, augmentation, the loop, the gate."""
