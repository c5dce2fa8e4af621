"""The command search: finds tracked objects that look like a crop, a picture or a description."""

from pathlib import Path

import click

from cli.options import PATH_TYPE, QueryError, data_option, settings_option
from resources.environment import choose_settings


@click.command()
@click.option("--crop", help="Find objects like that of a crop: RECORDING:TRACK or RECORDING:TRACK:RANK.")
@click.option("--image", type=PATH_TYPE, help="Find objects like that in a picture.")
@click.option("--text", help="Find objects by a description; needs the setting search.text_encoder.")
@click.option("--camera", help="Only this camera; '' for recordings directly in the watched folder.")
@click.option("--class", "class_name", help="Only objects of this class.")
@click.option("--zone", help="Only objects that were in this zone.")
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    help="Only objects with this vote of a crop model: MODEL=CLASS, or MODEL.PART=CLASS as in colour.upper=red.",
)
@click.option("--from", "from_utc", help="Only from this time on (UTC), such as '2026-03-01 08:00'.")
@click.option("--to", "to_utc", help="Only before this time (UTC).")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most this many objects."
)
@click.option("--sheet", type=PATH_TYPE, help="Also write a contact sheet to this .jpg or .png file.")
@click.option("--build-index", is_flag=True, help="Build the index for searches without filters; needs faiss-cpu.")
@click.option("--format", "output", type=click.Choice(["table", "csv", "json"]), default="table")
@data_option
@settings_option
def search(
    crop: str | None,
    image: Path | None,
    text: str | None,
    camera: str | None,
    class_name: str | None,
    zone: str | None,
    attributes: tuple[str, ...],
    from_utc: str | None,
    to_utc: str | None,
    limit: int,
    sheet: Path | None,
    build_index: bool,
    output: str,
    data: Path | None,
    settings: Path | None,
) -> None:
    """Find tracked objects that look like a crop, a picture or a description.

    Each object is listed once, with its most similar crop and the score: the cosine of the two embeddings, at most 1.
    All filters hold at once. --build-index speeds up searches without filters among more than a million crops.
    """
    from cli.crop_sheet import write_sheet
    from cli.result_formats import print_csv, print_json
    from cli.start_check import publish_for_query
    from resources.crop_search import (
        CropQuery,
        build_embedding_index,
        embed_image,
        embed_text,
        embedding_model,
        open_embeddings,
        parse_crop,
        read_embedding,
        search_crops,
        with_candidates,
    )

    if sum(value is not None for value in (crop, image, text)) != (0 if build_index else 1):
        raise QueryError("search needs exactly one of --crop, --image and --text, or --build-index alone.")
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    model = embedding_model(loaded_settings)
    publish_for_query(loaded_settings)
    connection, table = open_embeddings(loaded_settings)
    with connection:
        if build_index:
            click.echo(build_embedding_index(connection, table, loaded_settings))
            return
        model_id, without_track = None, None
        if crop is not None:
            embedding, model_id = read_embedding(connection, table, crop)
            without_track = parse_crop(crop)[:2]
        elif image is not None:
            of_image, model_id = embed_image(image, model)
            embedding = of_image.vector
        else:
            embedding = embed_text(str(text), loaded_settings)
        query = CropQuery(
            embedding,
            model_id,
            without_track,
            camera,
            class_name,
            zone,
            [_parse_attribute(attribute) for attribute in attributes],
            from_utc,
            to_utc,
            limit,
        )
        found = search_crops(connection, table, with_candidates(query, table, loaded_settings))
        rows = found.to_arrow_table().to_pylist()
        if not rows:
            click.echo("No crop matches.", err=True)
        elif output == "table":
            found.show(max_rows=limit, max_width=200)
        else:
            (print_csv if output == "csv" else print_json)([found])
        if sheet is not None and rows:
            count = write_sheet(connection, rows, sheet)
            click.echo(
                f"{sheet}: {count} pictures." if count else "No picture is left: no sheet was written.", err=True
            )


def _parse_attribute(text: str) -> tuple[str, str | None, str]:
    """Parse MODEL=CLASS or MODEL.PART=CLASS.

    Raises:
        QueryError: The text is not of this form.
    """
    from resources.crop_search import parse_attribute

    attribute = parse_attribute(text)
    if attribute is None:
        raise QueryError(f"--attribute {text!r} is not of the form MODEL=CLASS or MODEL.PART=CLASS.")
    return attribute
