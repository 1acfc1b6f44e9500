"""Data of the model package: formats by name, samples, errors that name the file, and random views for training.

`open_dataset("FORMAT:ROOT")` is the entrance; one file of this folder is one format. Nothing here knows a model.
"""

from __future__ import annotations

from . import bsds500, coco, dsb2018, labels, synthetic, voc
from .augment import RandomCrop, augment, choose_annotator, sample_generator
from .components import split_components
from .dataset import Dataset
from .reading import read_image, read_label_map
from .registry import formats, open_dataset, register
from .sample import IGNORE, Batch, DataError, Problem, Sample, collate

__all__ = [
    "IGNORE",
    "Batch",
    "DataError",
    "Dataset",
    "Problem",
    "RandomCrop",
    "Sample",
    "augment",
    "bsds500",
    "choose_annotator",
    "coco",
    "collate",
    "dsb2018",
    "formats",
    "labels",
    "open_dataset",
    "read_image",
    "read_label_map",
    "register",
    "sample_generator",
    "split_components",
    "synthetic",
    "voc",
]
