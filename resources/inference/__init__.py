"""Inference: weights and decoded images in, detections of every frame out, on the fastest engine that agrees.

weights              find weights, check them and download those that Ultralytics publishes
plain_networks       detectors that the settings describe, among them the bundled one
plain_heads          their outputs to candidate boxes
weights_description  task, classes and input size of weights, read without running the network
letterbox            resize and pad images to the network's input, map boxes back to frame pixels
decode_heads         raw network output to candidate boxes
nms                  non-maximum suppression of upright and oriented boxes
detection_arrays     `Detections`: the result of a model on one frame
detection_region     the rectangle of the frame on which a model runs
tiles                run a model on overlapping tiles of each frame, and merge their boxes
engines              OpenVINO, torch and TensorRT behind one interface
quantization         int8 networks for OpenVINO, calibrated on the user's own recordings
engine_agreement     how many boxes of an engine match those of the reference
engine_selection     choose the fastest engine of this machine that agrees with the reference
devices              which devices of this machine can run a model
device_lease         one model stage at a time on a device, across processes
gpu_memory           handle a GPU that runs out of memory
gpu_frames           decode frames on an NVIDIA GPU and keep them in its memory
frame_skipping       skip inference on frames that have not changed
prefetch             run an iterator ahead of its consumer, in a thread
detector             `Detector` and `Models`: run a model on a sequence of frames
"""
