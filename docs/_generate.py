"""The pages that follow from the code: the paper map, a page per estimator, and copies of notebooks and figures.

``pages(root)`` makes them; as a Sphinx extension this module writes them to ``docs/generated`` before each build.  A
name that does not resolve (a label, a file, a test) stops the build, with all such names in the message.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _estimators import estimator_index, estimator_page
from _paper_map import Unresolved, links_of, map_page, stray_labels

from tpg.claims import Claim, registry
from tpg.errors import TpgError
from tpg.estimators.table import FAMILIES

Pages = dict[str, str | bytes]  # path below docs/generated → content


def pages(root: Path) -> Pages:
    """Every generated page of the checkout ``root``.  TpgError with each name that does not resolve."""
    claims, wrong = every_claim(), Unresolved()
    links = sorted(links_of(root, claims, wrong), key=lambda found: found.kind)
    stray_labels(root, claims, wrong)
    wrong.stop()
    out: Pages = {"paper_map.md": map_page(links)}
    out |= {f"estimators/{row.name}.md": estimator_page(row) for family in FAMILIES for row in family.ROWS}
    out["estimators/index.md"] = estimator_index()
    out |= {f"notebooks/{path.name}": path.read_bytes() for path in root.glob("notebooks/*.ipynb")}
    return out | {f"figures/{path.name}": path.read_bytes() for path in root.glob("figures/*.png")}


def every_claim() -> dict[str, Claim]:
    """Those on tables, then those on networks.  TpgError without torch, which the latter import."""
    try:
        return registry.load() | registry.load(registry.NEURAL)
    except ModuleNotFoundError as error:
        raise TpgError(f"{error.name} is missing: claims on networks need it: pip install '.[docs,neural]'") from None


def write(made: Pages, place: Path) -> None:
    """Make ``place`` hold ``made`` and nothing else; a file that is the same stays, and is not built again."""
    contents = {place / name: text if isinstance(text, bytes) else text.encode() for name, text in made.items()}
    for path in place.rglob("*"):
        if path.is_file() and path not in contents:
            path.unlink()
    for path, content in contents.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _before_build(app: Any) -> None:
    source = Path(app.srcdir)
    write(pages(source.parent), source / "generated")


def setup(app: Any) -> dict[str, Any]:
    """The extension: pages are written before Sphinx looks for any."""
    app.connect("builder-inited", _before_build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
