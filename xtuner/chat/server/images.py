"""Images in requests: parts of a user's message, as a data URL, a file's name or an address.

{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR..."}}   ->   a Picture
                                   {"url": "cats/1.png"}                             with a folder of images
                                   {"url": "https://host/1.png"}                     with fetching
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from xtuner.chat.server.scheduler import QueueFullError
from xtuner.data_files import WEB
from xtuner.dataset.images.decode import decode_image
from xtuner.dataset.images.source import ImageSource, data_of_url
from xtuner.dataset.reading.web import read_public
from xtuner.errors import DataError
from xtuner.generation.pictures import Picture, Pictures

Check = Callable[[], None]

MAX_IMAGES = 16  # in one request: small files can hold large images
MAX_HELD = 4 * 2**30  # bytes of the pixels of all requests, waiting ones too
FETCH_S = 20.0  # for an image of the web
_FETCHERS = 8


class ImageReader:
    """Reads images for requests, of `folder` if there is one, and if it `fetches` of public addresses."""

    def __init__(
        self,
        folder: str | None = None,
        fetches: bool = False,
        max_bytes: int = 8 * 2**20,
        max_held: int = MAX_HELD,
    ) -> None:
        """`max_bytes`: of an image that is fetched."""
        self._folder = None if folder is None else os.path.abspath(os.path.expanduser(folder))
        self._source = None if folder is None else ImageSource(self._folder, is_confined=True)
        self._fetches = fetches
        self._max_bytes = max_bytes
        self._max_held = max_held
        # One at a time: decoding an image of some kilobytes can need a gigabyte.
        self._decoder = ThreadPoolExecutor(1, "images")
        # Several, so that a slow server of images delays no other request.
        self._fetcher = ThreadPoolExecutor(_FETCHERS, "fetches")

    async def read(
        self, url: str, where: str, pictures: Pictures, adapter: str | None, check: Check
    ) -> Picture:
        """The picture that the field `where` of a request names; DataError if there is none.

        `check` is called between two pieces of work and may raise to stop it.
        """
        run = asyncio.get_running_loop().run_in_executor
        here = contextvars.copy_context().run  # the language of answers
        content: str | bytes = url.strip()
        if self._fetches and url.strip().lower().startswith(WEB):
            fetch = functools.partial(here, self._fetched, url.strip(), where, check)
            content = await run(self._fetcher, fetch)
        decode = functools.partial(here, self.picture, content, where, pictures, adapter, check)
        return await run(self._decoder, decode)

    def _fetched(self, url: str, where: str, check: Check) -> bytes:
        check()
        try:
            return read_public(url, self._max_bytes, FETCH_S)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error

    def picture(
        self, content: str | bytes, where: str, pictures: Pictures, adapter: str | None, check: Check
    ) -> Picture:
        """The picture in the content of a file, or that a URL or name stands for."""
        check()
        if pictures.num_bytes > self._max_held:
            raise QueueFullError("the images of waiting requests fill the memory: try again later")
        if isinstance(content, bytes):
            return pictures.add(decode_image(content, where), adapter)
        scheme, colon, _ = content.partition(":")
        if scheme.lower() == "data":
            return pictures.add(decode_image(data_of_url(content, where), where), adapter)
        if colon and scheme.lower() != "file":
            raise DataError(
                f"{where}: this server fetches nothing from {scheme[:20] or 'elsewhere'}: send the image "
                "itself, as data:image/png;base64,..."
            )
        if self._source is None or self._folder is None:
            raise DataError(
                f"{where}: this server reads no files: send the image itself, as data:image/png;base64,..."
            )
        try:
            return pictures.add(self._source.image(content), adapter)
        except DataError as error:
            # Where the folder is, is nothing for clients.
            raise DataError(f"{where}: {str(error).replace(self._folder, 'the image folder')}") from error
