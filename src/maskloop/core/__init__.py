"""The nouns: geometry, image, mask, labels, edits, case, job; numpy and nothing heavier."""
