"""Engines: OpenVINO on the CPU, torch and TensorRT on a GPU, behind one interface."""
