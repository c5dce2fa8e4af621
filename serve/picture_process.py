"""The process that computes the embedding of an uploaded picture, because a decoder may crash with a damaged file."""

from multiprocessing.connection import Connection
from typing import Any

from resources.config.crop_model_config import CropModelSettings
from resources.crop_search import decode_picture, embed_picture
from resources.errors import PipelineError
from resources.process_isolation import limit_memory, serve_requests

_MAX_MEMORY_MB = 3000


def answer(request: tuple[bytes, CropModelSettings], _: "Connection[Any, Any]") -> dict[str, Any]:
    """Decode a picture and compute its embedding.

    Args:
        request: The file and the crop model.

    Returns:
        "embedding", "model_id" and "jpeg" (a small copy of the picture), or "error".
    """
    from resources.previews.annotated_frames import shrink_to_preview
    from resources.previews.image_encoding import MAX_FRAME_BYTES, encode_jpeg

    content, model = request
    try:
        image = decode_picture(content, "The picture")
        of_image, model_id = embed_picture(image, model)
    except PipelineError as error:
        return {"error": str(error)}
    return {
        "embedding": of_image.vector,
        "model_id": model_id,
        "jpeg": encode_jpeg(shrink_to_preview(image), MAX_FRAME_BYTES),
    }


if __name__ == "__main__":
    limit_memory(_MAX_MEMORY_MB)
    serve_requests(answer)
