"""Images that rows name, for training as well as for chat and the server.

source.py      `ImageSource`: paths, archives, data URLs, bytes, columns of `datasets` -> images, sizes
decode.py      the content of a file -> an RGB image, or its size from the header
shape.py       padding to a square; the bound on the pixels that a processor makes of an image
pixel_cache.py what processors make of images, on the disk up to a number of bytes
archives.py    files in .zip and .tar archives, read in place
"""
