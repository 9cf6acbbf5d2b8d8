"""The nouns: geometry, image, mask, labels, edits, case, job. numpy and the standard library only."""
