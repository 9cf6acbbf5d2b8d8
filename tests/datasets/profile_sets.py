"""A tiny set of ours for each profile of mask folders, in its real layout."""

from __future__ import annotations

import json

import numpy as np
import tifffile
from PIL import Image as Pillow
from scipy import io

U8, U16 = np.uint8, np.uint16


def save(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.asarray(data)).save(path)


def picture(path, shape=(2, 3)):
    save(path, np.full((*shape, 3), 90, U8))


def palettised(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Pillow.fromarray(np.asarray(data, U8))
    made.putpalette([n % 256 for n in range(768)])
    made.save(path)


def matlab(path, **entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    io.savemat(path, entries, do_compression=True)


def text(path, words):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words, encoding="utf-8")


def rgb(*rows):
    return np.array(rows, U8)


def cell(*names):
    return np.array([list(names)], dtype=object)


def voc(root):
    palettised_at = root / "SegmentationClass"
    palettised_at.mkdir()
    (root / "SegmentationObject").mkdir()
    palettised(palettised_at / "2007_01.png", [[15, 15, 15], [255, 0, 12]])
    palettised(root / "SegmentationObject" / "2007_01.png", [[1, 2, 2], [255, 0, 3]])
    picture(root / "JPEGImages" / "2007_01.jpg")
    picture(root / "JPEGImages" / "2007_02.jpg")
    text(root / "ImageSets/Segmentation/trainval.txt", "2007_01\n")
    text(root / "ImageSets/Segmentation/val.txt", "2007_01\n")


def sbd(root):
    for folder, key, data in (
        ("cls", "GTcls", [[15, 15, 0], [3, 0, 0]]),
        ("inst", "GTinst", [[1, 2, 0], [3, 0, 0]]),
    ):
        matlab(root / folder / "2008_1.mat", **{key: {"Segmentation": np.array(data, U8)}})
    picture(root / "img" / "2008_1.jpg")
    text(root / "train.txt", "2008_1\n")
    text(root / "val.txt", "2008_2\n")


def pascal_context(root):
    save(root / "SegmentationClassContext/a.png", U8([[0, 1, 59], [59, 59, 0]]))
    picture(root / "JPEGImages/a.jpg")


def pascal_context_mat(root):
    matlab(root / "trainval/a.mat", LabelMap=np.array([[2, 2, 459], [0, 0, 0]], U16))
    text(root / "labels.txt", "1: accordion\n2: aeroplane\n459: zebra\n")
    picture(root / "JPEGImages/a.jpg")


def cityscapes(root):
    name = "aachen_000000_000019"
    save(
        root / f"gtFine/train/aachen/{name}_gtFine_instanceIds.png",
        U16([[7, 7, 26], [26000, 26001, 0]]),
    )
    save(root / f"gtFine/train/aachen/{name}_gtFine_labelIds.png", U8([[7, 7, 26], [26, 26, 0]]))
    picture(root / f"leftImg8bit/train/aachen/{name}_leftImg8bit.png")
    picture(root / "leftImg8bit/test/berlin/berlin_0_0_leftImg8bit.png")


def kitti(root):
    save(root / "training/instance/000000_10.png", U16([[7 * 256, 26 * 256 + 1, 26 * 256 + 2]]))
    save(root / "training/semantic/000000_10.png", U8([[7, 26, 26]]))
    picture(root / "training/image_2/000000_10.png", (1, 3))
    picture(root / "testing/image_2/000001_10.png", (1, 3))


def camvid(root):
    save(
        root / "LabeledApproved_full/0001TP_006690_L.png",
        rgb([[128, 128, 128], [0, 0, 0]], [[64, 0, 128], [64, 0, 128]]),
    )
    picture(root / "701_StillsRaw_full/0001TP_006690.png", (2, 2))
    text(root / "label_colors.txt", "0 0 0\t\tVoid\n128 128 128\tSky\n64 0 128\tCar\n")


def camvid_segnet(root):
    save(root / "trainannot/Seq05VD_f1.png", U8([[0, 8, 11]]))
    picture(root / "train/Seq05VD_f1.png", (1, 3))


def bdd100k(root):
    save(root / "labels/sem_seg/masks/train/a.png", U8([[0, 13, 255]]))
    picture(root / "images/10k/train/a.jpg", (1, 3))


def bitmask(*pixels):
    return np.array([pixels], U8)


def bdd100k_instances(root):
    save(
        root / "labels/ins_seg/bitmasks/val/a.png",
        bitmask((3, 12, 0, 1), (3, 0, 1, 0), (3, 1, 0, 2), (3, 2, 0, 3), (0, 0, 0, 0)),
    )
    picture(root / "images/10k/val/a.jpg", (1, 5))


def bdd100k_panoptic(root):
    save(
        root / "labels/pan_seg/bitmasks/val/a.png",
        bitmask((35, 0, 0, 1), (35, 0, 0, 2), (7, 0, 0, 3), (0, 0, 0, 0)),
    )
    picture(root / "images/10k/val/a.jpg", (1, 4))


def ade20k(root):
    folder = root / "training/urban/street"
    save(folder / "ADE_train_1_seg.png", rgb([[112, 208, 1], [112, 208, 2], [0, 0, 0]]))
    picture(folder / "ADE_train_1.jpg", (1, 3))
    listed = [
        {"id": 0, "name_ndx": 11 * 256 + 208, "name": "sky", "parts": {"part_level": 0}},
        {"id": 1, "name_ndx": 11 * 256 + 208, "name": "sky", "parts": {"part_level": 0}},
        {"id": 2, "name_ndx": 774, "name": "door", "parts": {"part_level": 1}},
    ]
    text(folder / "ADE_train_1.json", json.dumps({"annotation": {"object": listed}}))
    save(folder / "ADE_train_1_parts_1.png", rgb([[30, 6, 1], [0, 0, 0], [0, 0, 0]]))


def ade20k_2017(root):
    folder = root / "images/validation/b/bedroom"
    save(folder / "ADE_val_7_seg.png", rgb([[0, 2, 1], [0, 0, 0]]))
    picture(folder / "ADE_val_7.jpg", (1, 2))
    matlab(root / "index_ade20k.mat", index={"objectnames": cell("-", "bed")})


def sceneparse(root):
    save(root / "annotations/training/ADE_train_1.png", U8([[0, 1, 150]]))
    picture(root / "images/training/ADE_train_1.jpg", (1, 3))


def coco_stuff(root):
    save(root / "stuffthingmaps/val2017/000000000139.png", U8([[0, 181, 255]]))
    picture(root / "images/val2017/000000000139.jpg", (1, 3))


def mapillary(root):
    save(
        root / "training/v1.2/instances/a.png",
        U16([[0, 256, 257], [2 * 256, 2 * 256, 256]]),
    )
    picture(root / "training/images/a.jpg")
    labels = [
        {"color": [165, 42, 42], "instances": False, "readable": "Road", "evaluate": True},
        {"color": [0, 0, 142], "instances": True, "readable": "Car", "evaluate": True},
        {"color": [0, 0, 0], "instances": False, "readable": "Unlabeled", "evaluate": False},
    ]
    text(root / "config_v1.2.json", json.dumps({"labels": labels}))


def msrc(root):
    save(root / "GroundTruth/1_9_s_GT.bmp", rgb([[0, 128, 0], [0, 0, 0], [0, 0, 128]]))
    picture(root / "Images/1_9_s.bmp", (1, 3))
    text(root / "Train.txt", "1_9_s.bmp\n")


def daimler(root):
    save(root / "gt/f_1.pgm", U8([[1, 2, 2]]))
    save(root / "img/f_1.pgm", U8([[9, 9, 9]]))
    text(root / "labels.txt", "1 ground\n2 vehicle\n")


def stanford_background(root):
    text(root / "labels/0000047.regions.txt", "0 0 -1 \n5 7 7 \n")
    picture(root / "images/0000047.jpg")


def siftflow(root):
    folder = "spatial_envelope_256x256_static_8outdoorcategories"
    names = cell("awning", "balcony", "sun")
    matlab(root / f"SemanticLabels/{folder}/coast_1.mat", S=U8([[0, 3, 3]]), names=names)
    picture(root / f"Images/{folder}/coast_1.jpg", (1, 3))


def barcelona(root):
    names = cell("air conditioning", "airplane")
    matlab(root / "SemanticLabels/barcelona/a.mat", S=np.int16([[0, 1, 2]]), names=names)
    picture(root / "Images/barcelona/a.jpg", (1, 3))


def ccp(root):
    matlab(root / "annotations/pixel-level/0001.mat", groundtruth=U8([[0, 1, 2]]))
    matlab(root / "label_list.mat", label_list=cell("null", "accessories", "bag"))
    picture(root / "photos/0001.jpg", (1, 3))


def pratheepan(root):
    save(root / "Ground_Truth/GroundT_FacePhoto/0520.png", U8([[0, 255, 250]]))
    picture(root / "Pratheepan_Dataset/FacePhoto/0520.jpg", (1, 3))


def binary(root):
    save(root / "masks/a.png", np.array([[False, True, True]]))
    picture(root / "images/a.jpg", (1, 3))


def isbi_em(root):
    stack = np.zeros((2, 3, 4), U8)
    stack[1] = 255
    tifffile.imwrite(root / "train-labels.tif", stack, photometric="minisblack")
    tifffile.imwrite(root / "train-volume.tif", stack + 1, photometric="minisblack")


def inria_aerial(root):
    for name in ("gt", "images"):
        (root / "train" / name).mkdir(parents=True)
    tifffile.imwrite(root / "train/gt/austin1.tif", U8([[0, 255, 255]]))
    tifffile.imwrite(root / "train/images/austin1.tif", np.zeros((1, 3, 3), U8))
    (root / "test/images").mkdir(parents=True)
    tifffile.imwrite(root / "test/images/tyrol-e9.tif", np.zeros((1, 3, 3), U8))


def graz02(root):
    save(root / "bikes/bike_001.mask.0.png", rgb([[255, 0, 0], [255, 0, 0], [0, 0, 0]]))
    save(root / "bikes/bike_001.mask.1.png", rgb([[0, 0, 0], [255, 0, 0], [255, 0, 0]]))
    picture(root / "bikes/bike_001.image.png", (1, 3))


def dsb2018(root):
    save(root / "0a7d/masks/11.png", U8([[255, 0, 0]]))
    save(root / "0a7d/masks/9f.png", U8([[0, 0, 255]]))
    picture(root / "0a7d/images/0a7d.png", (1, 3))


def urbanmapper3d(root):
    (root / "training").mkdir()
    tifffile.imwrite(root / "training/JAX_Tile_004_GTI.tif", U16([[0, 1, 700]]))
    tifffile.imwrite(root / "training/JAX_Tile_004_RGB.tif", np.zeros((1, 3, 3), U8))


def roaddetector(root):
    save(root / "masks/img1.png", U8([[0, 255, 0]]))
    picture(root / "images/img1.png", (1, 3))


def apolloscape(root):
    save(root / "Label/Record001/Camera 5/a_instanceIds.png", U16([[49, 33000, 33002]]))
    picture(root / "ColorImage/Record001/Camera 5/a.jpg", (1, 3))


def airsim(root):
    save(root / "images/img_Car_0_5_1543.png", rgb([[153, 108, 6], [112, 105, 191]]))
    picture(root / "images/img_Car_0_0_1543.png", (1, 2))
    text(root / "seg_rgbs.txt", "0\t[55, 181, 57]\n1\t[153, 108, 6]\n2\t[112, 105, 191]\n")


def human_parsing(root):
    save(root / "SegmentationClassAug/1.png", U8([[0, 2, 17]]))
    picture(root / "JPEGImages/1.jpg", (1, 3))


def data_from_games(root):
    save(root / "labels/00001.png", rgb([[128, 64, 128], [0, 0, 142], [0, 0, 0]]))
    picture(root / "images/00001.png", (1, 3))


# Profile, its tiny set, whether it is known by its files, (name, split, group) of every item, and
# the pixels of each region by class.
CASES = [
    ("voc", voc, True, [("2007_01", "val", "")], "person:1 person:2 void:1 dog:1"),
    ("sbd", sbd, True, [("2008_1", "train", "")], "person:1 person:1 bird:1"),
    ("pascal-context", pascal_context, True, [("a", "", "")], "aeroplane:1 wood:3"),
    ("pascal-context-mat", pascal_context_mat, True, [("a", "", "")], "aeroplane:2 zebra:1"),
    (
        "cityscapes",
        cityscapes,
        True,
        [
            ("aachen/aachen_000000_000019", "train", "aachen"),
            ("berlin/berlin_0_0", "test", "berlin"),
        ],
        "road:2 car:1 car:1 car:1 unlabeled:1",
    ),
    (
        "kitti",
        kitti,
        True,
        [("000000_10", "train", ""), ("000001_10", "test", "")],
        "road:1 car:1 car:1",
    ),
    ("camvid", camvid, True, [("0001TP_006690", "", "0001TP")], "Sky:1 Void:1 Car:2"),
    ("camvid", camvid_segnet, True, [("Seq05VD_f1", "train", "Seq05VD")], "Sky:1 Car:1 Void:1"),
    ("bdd100k", bdd100k, True, [("a", "train", "")], "road:1 car:1 unlabeled:1"),
    ("bdd100k-instances", bdd100k_instances, True, [("a", "val", "")], "car:1 car:1 car:1 car:1"),
    (
        "bdd100k-panoptic",
        bdd100k_panoptic,
        True,
        [("a", "val", "")],
        "car:1 car:1 road:1 unlabeled:1",
    ),
    ("ade20k", ade20k, True, [("urban/street/ADE_train_1", "train", "")], "sky:1 sky:1"),
    ("ade20k", ade20k_2017, True, [("b/bedroom/ADE_val_7", "val", "")], "bed:1"),
    ("sceneparse", sceneparse, True, [("ADE_train_1", "train", "")], "other:1 wall:1 flag:1"),
    (
        "coco-stuff",
        coco_stuff,
        True,
        [("000000000139", "val", "")],
        "person:1 wood:1 unlabeled:1",
    ),
    ("mapillary", mapillary, True, [("a", "train", "")], "Road:1 Car:2 Car:1 Unlabeled:2"),
    ("msrc", msrc, True, [("1_9_s", "train", "")], "grass:1 void:1 cow:1"),
    ("daimler", daimler, False, [("f_1", "", "")], "ground:1 vehicle:2"),
    (
        "stanford-background",
        stanford_background,
        True,
        [("0000047", "", "")],
        "sky:2 unknown:1 building:1 foreground-object:2",
    ),
    ("siftflow", siftflow, True, [("coast_1", "", "")], "unlabelled:1 sun:2"),
    (
        "barcelona",
        barcelona,
        True,
        [("barcelona/a", "", "")],
        "unlabelled:1 air-conditioning:1 airplane:1",
    ),
    ("ccp", ccp, True, [("0001", "", "")], "accessories:1 bag:1"),
    ("pratheepan", pratheepan, True, [("FacePhoto/0520", "", "")], "skin:2"),
    ("binary", binary, False, [("a", "", "")], "foreground:2"),
    ("isbi-em", isbi_em, True, [("train", "train", "")], "cell:12 membrane:12"),
    (
        "inria-aerial",
        inria_aerial,
        True,
        [("austin1", "train", "austin"), ("tyrol-e9", "test", "tyrol-e")],
        "building:2",
    ),
    ("graz02", graz02, True, [("bikes/bike_001", "", "")], "bikes:2 bikes:2"),
    ("dsb2018", dsb2018, True, [("0a7d", "", "")], "nucleus:1 nucleus:1"),
    (
        "urbanmapper3d",
        urbanmapper3d,
        True,
        [("JAX_Tile_004", "", "")],
        "building:1 building:1",
    ),
    ("roaddetector", roaddetector, False, [("img1", "", "")], "road:1"),
    (
        "apolloscape",
        apolloscape,
        True,
        [("Record001/Camera 5/a", "", "Record001")],
        "road:1 car:1 car:1",
    ),
    ("airsim", airsim, True, [("Car_0_1543", "", "Car")], "object-1:1 object-2:1"),
    ("human-parsing", human_parsing, True, [("1", "", "")], "hair:1 scarf:1"),
    (
        "data-from-games",
        data_from_games,
        False,
        [("00001", "", "")],
        "road:1 car:1 unlabeled:1",
    ),
]
