"""Stages of one's own: a function in a file outside this project, which becomes an asset with a table.

stage_api      what the file imports: the decorator `stage`, `Column`, and the batches that the function receives
stage_file     read the declaration of a file without running it
stage_rows     rows that the function returns to an Arrow table
stage_code     what the child process runs: the function of a file, or a callable by its import path
crop_callable  a crop model that is a callable
stage_process  the parent's side of the child process
"""

from resources.own_stages.stage_api import Batch, Column, Crop, Frame, Recording, stage

__all__ = ["Batch", "Column", "Crop", "Frame", "Recording", "stage"]
