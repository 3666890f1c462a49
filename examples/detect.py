"""Detect on one picture in Python: `python examples/detect.py MODEL.safetensors PICTURE.jpg`."""

import sys

import m2det

detector = m2det.load(sys.argv[1])
found = detector(sys.argv[2], score=0.1)
for box, score, name in zip(found.xyxy, found.confidence, found.data["class_name"], strict=True):
    print(f"{name} {score:.2f} at {[round(float(x)) for x in box]}")
