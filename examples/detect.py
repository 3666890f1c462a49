"""Detect on one picture in Python: `python examples/detect.py MODEL.safetensors PICTURE.jpg`."""

import sys

import cv2
import torch

from m2det.evaluate import postprocess
from m2det.model import prior_boxes
from m2det.model.model_file import load_trained
from m2det.model.preprocess import subtract_mean

model, card = load_trained(sys.argv[1])
image, side = cv2.imread(sys.argv[2]), model.config.size
resized = torch.from_numpy(cv2.resize(image, (side, side))).permute(2, 0, 1)[None]  # uint8 [1,3,S,S] BGR
with torch.inference_mode():
    outputs = model(subtract_mean(resized, torch.device("cpu")))
height, width = image.shape[:2]
loc, conf, priors = outputs["loc"][0], outputs["conf"][0], prior_boxes(model.config)
for *box, score, label in postprocess(loc, conf, priors, (width, height), "hard", nms_iou=0.45):
    print(f"{card['classes'][int(label) - 1]} {score:.2f} at {[round(float(x)) for x in box]}")
