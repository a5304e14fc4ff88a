"""Print the digests that this process makes of a golden log, as JSON.

python -m tests.golden.digests RELEASE FOLDER
"""

import json
import sys
from contextlib import closing
from pathlib import Path

from tests.golden.logs import PLACEMENTS, digests, folded, unpack

if __name__ == "__main__":
    with closing(unpack(sys.argv[1], Path(sys.argv[2]))) as golden:
        found = {shard: list(digests(folded(golden, placement))) for shard, placement in PLACEMENTS.items()}
    print(json.dumps(found))
