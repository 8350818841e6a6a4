"""A model of 0.8 million weights for the examples, trained in seconds: python make_model.py FOLDER

It knows how a dialogue looks, and little else. With a model of your own the examples do not need it.
"""

import sys

from xtuner.demo.base_model import Pretraining, make_base_model

SIZES = dict(hidden_size=128, intermediate_size=352, num_layers=2)

if __name__ == "__main__":
    make_base_model(sys.argv[1], Pretraining(**SIZES, steps=60))
    print(f"Wrote {sys.argv[1]}")
