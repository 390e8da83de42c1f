"""One step of the run with null towers, in a process of its own; prints what it took as JSON.

`make` writes blank studies, `embed` runs the null towers over them as the embed job would; the
process of the latter is the job's driver. `null_towers.py` calls this file.
"""

import argparse
import json
import time
from pathlib import Path

from material import null_dataset, null_towers
from record import peak_bytes

from sonoray.workspace import Workspace
from sonoray_jobs.road.embed_config import EmbedConfig
from sonoray_jobs.towers.embedding import embed_dataset


def main() -> None:
    """Make the dataset, or embed it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("make", "embed"))
    parser.add_argument("home", type=Path)
    parser.add_argument("num_studies", type=int)
    given = parser.parse_args()
    home = Workspace.open(given.home)
    start = time.perf_counter()
    output = null_dataset(home, given.num_studies)  # found again where it was made before
    result = {"num_images": output.manifest["summary"]["unique_images"]}
    if given.step == "embed":
        result = embed_dataset(output, null_towers(home), EmbedConfig()).to_json()
    result |= {"elapsed_s": time.perf_counter() - start, "peak_bytes": peak_bytes()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
