"""The lease of a device for the run of a model stage."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from cv_assets.stage_asset import StageRun
from cv_assets.waits import report_wait
from resources.config.detection_config import DetectionSettings
from resources.config.settings import Settings
from resources.inference.device_lease import describe_holder, device_lease
from resources.inference.devices import available_devices, lock_name

DEVICE_TAG = "cv_assets/device"
"""Tag of a run: the device of its newest lease."""


def lease_of_model(
    asset_name: str, own_settings: Callable[[Settings], DetectionSettings]
) -> Callable[[StageRun], AbstractContextManager[str]]:
    """Return the function that leases a device of a model for a whole run.

    Args:
        asset_name: First asset of the model's stage, which reports the wait.
        own_settings: Reads the settings of the model.
    """

    @contextmanager
    def lease(run: StageRun) -> Iterator[str]:
        context, log = run.context, run.context.log
        devices = available_devices(own_settings(run.settings))
        has_recordings = context.has_partition_key or context.has_partition_key_range
        recording_ids = context.partition_keys if has_recordings else []

        def describe_devices() -> str:
            holders = " or ".join(f"{name}, which is held by {describe_holder(lock_name(name))}" for name in devices)
            return f"{holders}; {len(recording_ids)} recordings of the run wait" if len(recording_ids) > 1 else holders

        with ExitStack() as stack:
            with report_wait(context, asset_name, next(iter(recording_ids), None), describe_devices):
                device = stack.enter_context(device_lease(devices, run.store.data_folder, lock_name))
            log.info(f"Leased {device}.")
            # Every model run is tagged gpu=true, also on a machine without a GPU.
            context.instance.add_run_tags(context.run.run_id, {DEVICE_TAG: device})
            try:
                yield device
            finally:
                log.info(f"Released {device}.")

    return lease
