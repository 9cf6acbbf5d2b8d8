"""What each control of the panel does, in one sentence; the one place for tooltips."""

from __future__ import annotations

TIPS = {
    "open_image": "Open a picture, a volume, or a folder of DICOM slices as an image layer.",
    "open_folder": "Open a folder of DICOM; where there is a choice of series, it is asked for.",
    "open_mask": "Open a mask as labels layers on the chosen image; one layer for each set of "
    "regions that do not overlap.",
    "series": "The series found in the folder and below; select the one to open.",
    "resample": "Put tilted or unevenly spaced slices on a regular upright grid, each from its "
    "true position.",
    "fill_gap": "Put interpolated slices where slices are missing.",
    "open_series": "Open the selected series.",
    "no_series": "Open nothing.",
    "sample": "Open a drawn example; nothing is downloaded.",
    "sample_choice": "Which example to open.",
    "three_views": "Show axial, coronal and sagittal planes with a crosshair; hold Shift over the "
    "picture to move it.",
    "plane": "Click or drag to move the crosshair, turn the wheel to step, double-click to show "
    "this plane in the canvas and paint in it.",
    "convention": "Radiological: the patient's right is on screen left, as seen from the feet. "
    "Neurological: on screen right. Only the picture is turned, never the data.",
    "cursor": "What lies under the mouse: millimetres in the patient, value, label, and the index "
    "in the stored array.",
    "window": "Show the chosen image from {low:g} to {high:g} HU.",
    "image": "The image to work on; layers of any plugin will do.",
    "model": "The model to run; its tooltip tells what it was proved on, and its licence.",
    "refresh": "Read the list of models again.",
    "device": "Where to compute; auto takes a graphics card if torch can use one.",
    "frame": "Which position along this axis to segment; follows the slider below the picture.",
    "extent": "Segment the whole volume slice by slice, or only the slice shown.",
    "channel": "Which colours the model sees.",
    "run": "Segment the image; the result is a labels layer that you can correct and undo.",
    "stop": "Stop the running work.",
    "labels": "The labels layer to work on; layers of any plugin will do.",
    "new_labels": "Make an empty labels layer on the image chosen under Predict.",
    "table": "Click a row to paint with it; double-click its name or colour to change them.",
    "add_label": "Add a class to the table.",
    "scan_labels": "Read which ids occur in the layer and list them.",
    "recover": "Open the mask that the journal beside the image leads to, as it was last seen.",
    "tool": "What to do with the selected label.",
    "apply": "Apply the tool to the selected label, as one step that Ctrl+Z undoes.",
    "undo": "Take back the last step on this layer (Ctrl+Z).",
    "redo": "Do the step again that was taken back (Ctrl+Shift+Z).",
    "export_labels": "The labels layer to export.",
    "kind": "Whether ids are classes (liver, tumour) or objects (cell 1, cell 2) where the layer "
    "does not say.",
    "format": "The format to write; each file is read back and compared before it is put in place.",
    "only_shown": "Export the frame you see, not the whole series.",
    "path": "The file to write.",
    "browse": "Choose the file to write.",
    "export": "Write the mask, read it back, compare, and show the receipt.",
    "receipt": "What was written and how it was checked; the same text lies beside the file.",
    "cases": "The corrected pairs to learn from; select rows and press Remove to take them out.",
    "add_case": "Add the image chosen under Predict with the labels chosen under Correct.",
    "add_folder": "Add every image of a folder that has its mask beside it.",
    "remove_case": "Take the selected pairs out of the list.",
    "base": "The model to start from; an untrained family starts from nothing.",
    "name": "Name of the new model, as the menu will show it.",
    "steps": "Training steps; 0 lets maskloop choose.",
    "train": "Train, score old and new on held-out cases, and put the new model into the menu.",
    "curve": "Loss while it learns, and Dice on the held-out cases.",
    "verdict": "Scores of the old and the new model on the held-out cases.",
}
