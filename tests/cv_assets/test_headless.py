"""What the command shows while it waits."""

from dagster import AssetObservation, DagsterInstance, MetadataValue, OpExecutionContext, job, op

from cv_assets.commands.headless import Progress, StageProgress, _read_observations


def test_progress_is_read_from_observations_and_what_else_is_observed_is_passed_over() -> None:
    seen, cursors = Progress(), dict[str, int]()

    @op
    def work(context: OpExecutionContext) -> None:
        told = {"frames_done": 50, "frames_total": 200, "frames_per_s": 12.5, "eta_s": 12.0}
        picture = MetadataValue.md("![frame 50 of 200](data:image/jpeg;base64,/9g=)")
        context.log_event(AssetObservation("detections", partition="a", metadata={**told, "picture": picture}))
        context.log_event(AssetObservation("detections", partition="b", metadata={"freshness": "good", "rows": {}}))
        context.log_event(AssetObservation("elsewhere", metadata=told))
        _read_observations(context.instance, cursors, seen)
        assert seen.stages == {("a", "detections"): StageProgress(50, 200, 12.5)}
        context.log_event(AssetObservation("detections", partition="a", metadata={**told, "frames_done": 200}))
        _read_observations(context.instance, cursors, seen)

    @job
    def working() -> None:
        work()

    with DagsterInstance.ephemeral() as instance:
        assert working.execute_in_process(instance=instance).success
    assert seen.stages == {("a", "detections"): StageProgress(200, 200, 12.5)}
