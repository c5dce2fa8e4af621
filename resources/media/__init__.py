"""Decodes recordings and writes normalized video, with PyAV.

A normalized video is upright, has square pixels and a constant frame rate, and is progressive 8-bit 4:2:0 BT.709 H.264
in MP4. For every frame of it, the index of its source frame and that frame's time on the source's clock are known.

    container         opens a file as container, video stream and decoder; no other file is ever opened
    probe             the header's claims and the properties of the first frame
    timeline          frame rate and timestamps, from the packets, without decoding
    source_decoder    frames in order, and the packet ledger: the outcome of every packet
    frame_measures    brightness, sharpness, motion and scene score of each frame
    encode            source frames to normalized H.264
    normalize         all of these together: remux sources that conform, transcode the others
    normalized_file   what normalization returns
    frame_reader      frames of a normalized video, with seeking
    frame_converter   decoded frames to BGR arrays
    progress          the progress callback
    isolation         probe and normalize in a process whose crash or hang costs one recording
"""
