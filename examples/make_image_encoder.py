"""An image encoder of 0.3 million weights for the examples, made in seconds:

    python make_image_encoder.py FOLDER

It has seen some colours and shapes. With an encoder of your own, such as a CLIP, the examples do not need it.
"""

import sys

from xtuner.demo.image_encoder import EncoderPlan, make_image_encoder

if __name__ == "__main__":
    make_image_encoder(sys.argv[1], EncoderPlan(num_pictures=640, steps=40))
    print(f"Wrote {sys.argv[1]}")
