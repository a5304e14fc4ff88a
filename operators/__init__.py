"""What a person runs: the `headrace` command."""

import os

# On a machine that others use too, a second thread makes small products many times slower: it is waited for. NumPy's
# library reads this once, when NumPy is imported. Torch has threads of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
