"""What the chapters take to compute: seconds of processor time and memory of every chapter's kernel, on one thread.

    python benchmarks/chapters.py [NAME]... [--out benchmarks/chapters.json]

Processor time is counted rather than time on the clock, so that other work on the machine hardly matters. NAME is an id of
`unlearn reproduce --list`; the default is the introduction and all chapters.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import nbformat

from unlearn_lib.environment import provenance
from unlearn_lib.files import write_text
from unlearn_lib.reproduction.book import notebooks
from unlearn_lib.reproduction.checkout import project_root
from unlearn_lib.reproduction.inventory import ITEMS, find

MEASURE = """import json, resource
spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"seconds": sum(one.ru_utime + one.ru_stime for one in spent), "mebibytes": max(one.ru_maxrss for one in spent) / 1024}))
"""


def measured(path: Path, root: Path) -> dict[str, float]:
    """Seconds of processor time and peak memory in MiB of one notebook, the start of its kernel and the imports included."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        node = nbformat.read(path, as_version=4)
        node.cells.append(nbformat.v4.new_code_cell(MEASURE))
        nbformat.write(node, folder / path.name)
        notebooks.execute(folder / path.name, folder / "done.ipynb", {}, root)
        (output,) = nbformat.read(folder / "done.ipynb", as_version=4).cells[-1].outputs
        found: dict[str, float] = json.loads(output.text)
    return {"seconds": round(found["seconds"], 1), "mebibytes": round(found["mebibytes"])}


@click.command()
@click.argument("names", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).with_name("chapters.json"))
def main(names: tuple[str, ...], out: Path) -> None:
    """Measure chapters; those that are not named keep what was measured before."""
    root = project_root()
    every = [name for name in ITEMS if name == "five_minutes" or name.startswith("ch")]
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"notebooks": {}}
    for name in names or every:
        path = root / "notebooks" / find(name).notebook
        report["notebooks"][path.stem] = measured(path, root)
        report["environment"] = provenance()
        click.echo(f"{path.stem}: {report['notebooks'][path.stem]}")
        write_text(out, json.dumps(report, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
