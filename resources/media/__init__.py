"""Reading recordings exactly and writing normalized video, with PyAV.

A normalized video is upright, has square pixels, is progressive 8-bit 4:2:0 BT.709 H.264 in MP4 and of constant rate;
every one of its frames knows the source frame it shows and that frame's time on the source's clock.

    opening      a file becomes a container, a stream and a decoder; nothing else is ever opened
    probing      what a file claims and what its first picture shows
    timeline     what its packets say of time, without decoding
    decoding     frames in order, and the ledger of what became of every packet
    measuring    brightness, sharpness, motion and scene score of each frame
    encoding     pictures to normalized H.264
    normalizing  all of these together: take over what conforms, encode the rest
    reading      frames of a normalized video
    isolation    probing and normalizing where a crash or a hang of a codec can be survived
"""
