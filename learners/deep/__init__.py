"""The deep sequence model in torch: network, training, prediction and the model file.

What stands here needs no torch, which takes seconds to import.
"""

from typing import Final

newest_share: Final = 0.65
"""Weight of a round's trained weights in the predicting weights; the rest is that of the previous ones."""
