"""Models: weights in, detections of every frame out, on the fastest engine of this machine that agrees.

weights         what a file of weights holds, and whether it may be used
engines         a network on OpenVINO, torch or TensorRT, compiled once and kept
quantization    the eight-bit network, calibrated on the user's own footage
postprocessing  a picture fitted to the network, and boxes from what it gives
agreement       how far an engine's detections are those of the reference
static          which frames show nothing new
prefetch        what comes next is made while the last is used
gpu_footage     frames that stay on the GPU from its decoder to the boxes
device_lease    one model stage at a time on a device, across processes
detector        all of these together: choose the engine, and keep it busy
"""
