"""The deep sequence model: trained and judged in torch (`model`, `network`, `softmax`, `train`), answering in NumPy.

Torch takes seconds to import; the other modules do without it.
"""

from typing import Final

newest_share: Final = 0.65
"""Weight of a round's trained weights in the predicting weights; the rest is that of the previous ones."""
