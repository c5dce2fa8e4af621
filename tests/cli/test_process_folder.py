"""The progress that the command process shows while it waits."""

from dagster import AssetObservation, DagsterInstance, MetadataValue, OpExecutionContext, job, op

from cli.process_folder import FolderProgress, StageProgress, _read_stage_progress


def test_progress_is_read_from_observations_and_other_observations_are_ignored() -> None:
    progress, cursors = FolderProgress(), dict[str, int]()

    @op
    def log_observations(context: OpExecutionContext) -> None:
        metadata = {"frames_done": 50, "frames_total": 200, "frames_per_s": 12.5, "eta_s": 12.0}
        preview = MetadataValue.md("![frame 50 of 200](data:image/jpeg;base64,/9g=)")
        context.log_event(AssetObservation("detections", partition="a", metadata={**metadata, "preview": preview}))
        context.log_event(AssetObservation("detections", partition="b", metadata={"freshness": "good", "rows": {}}))
        context.log_event(AssetObservation("other_asset", metadata=metadata))
        _read_stage_progress(context.instance, cursors, progress)
        assert progress.stages == {("a", "detections"): StageProgress(50, 200, 12.5)}
        context.log_event(AssetObservation("detections", partition="a", metadata={**metadata, "frames_done": 200}))
        _read_stage_progress(context.instance, cursors, progress)

    @job
    def observing_job() -> None:
        log_observations()

    with DagsterInstance.ephemeral() as instance:
        assert observing_job.execute_in_process(instance=instance).success
    assert progress.stages == {("a", "detections"): StageProgress(200, 200, 12.5)}
