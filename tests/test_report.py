"""The ledger page: what it holds, that it needs nothing from outside, and that it works in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tpg.claims import Claim, Finding, registry
from tpg.claims.run import Outcome
from tpg.cli.listing import estimators
from tpg.cli.main import main
from tpg.figures import run as gallery
from tpg.figures.shown import Shown, shown
from tpg.report.page import Picture, page, pictures

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-quic", "--virtual-time-budget=3000"]
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ffff3f0005fe02fe"
    "0def46b80000000049454e44ae426082"
)


def outcome(label: str, status: str = "holds", **more: object) -> Outcome:
    given: dict[str, object] = {
        "label": label,
        "statement": f"<what> {label} & states",
        "status": status,
        "evidence": {"holds": "PROVED", "refuted": "REFUTED"}.get(status, "OPEN"),
        "seconds": 0.25,
        "why": "because 'so'",
        "shapes": 8,
        "findings": 3,
        "mutants": {"a": "somewhere", "b": "survived"},
        "error_probability": 1e-30,
        "needs": (),
    }
    return Outcome(**{**given, **more})  # type: ignore[arg-type]


OUTCOMES = [
    outcome("prop:b-first"),
    outcome("prop:a-second", "refuted", wording="it <is>", as_worded="refuted on x"),
    outcome(
        "prop:length", wording="fine", as_worded="confirmed", needs=("prop:b-first", "prop:far"), group_sizes=(2, 3)
    ),
]
NETWORKS = [outcome("neural:length", evidence="TESTED"), outcome("neural:cost")]
TRUE = Claim(
    "prop:true",
    "it is true",
    "test",
    (),
    lambda p: [Finding("1 = 1", True, "0")],
    {"1 = 2": lambda p: [Finding("1 = 2", False, "1")]},
)
PICTURES = [
    Picture("one_two", ("prop:length", "prop:b-first"), "Caption <one>", PIXEL),
    Picture("two", ("neural:cost",), "Two.", PIXEL),
]
SHOWN = {
    "prop:length": Shown(("one_two",), ("05_x",)),
    "prop:b-first": Shown(("one_two",)),
    "neural:cost": Shown(("two",), ("11_network", "12_more")),
    "prop:not-run": Shown((), ("05_x",)),
}
SUPPOSED = {"prop:length": ("rewards < 2", "γ = 1"), "prop:not-run": ("nothing",)}


def whole() -> str:
    return page(OUTCOMES, PICTURES, estimators(), SHOWN, SUPPOSED, NETWORKS, "two <networks>")


def row(text: str, label: str) -> str:
    """The line of the table that is about ``label``."""
    (found,) = [line for line in text.splitlines() if f"id='{label}'" in line]
    return found


def test_everything_is_on_the_page_and_nothing_is_fetched() -> None:
    text = whole()
    assert "{{" not in text
    for each in (*OUTCOMES, *NETWORKS):
        assert f"id='{each.label}'" in text
    assert "&lt;what&gt; prop:b-first &amp; states" in text  # escaped, not markup
    assert "<q>it &lt;is&gt;</q> <span class=refuted title='on x'>refuted</span>" in text
    assert "href='#figure-one_two'>one_<wbr>two</a>" in text
    both = "<a href='#prop:length'>prop:length</a> <a href='#prop:b-first'>prop:b-first</a>"
    assert f"Caption &lt;one&gt; {both}</figcaption>" in text
    assert not re.search(r"(src|href)=['\"]?(https?:)?//", text)
    assert not re.search(r"@import|url\((?!data:)", text)
    assert json.loads(re.search(r'id="data">(.*?)</script>', text).group(1))[0]["label"] == "prop:b-first"  # type: ignore[union-attr]


def test_every_estimator_and_every_count_is_there() -> None:
    text = whole()
    assert all(f"<td>{row['name']}</td>" in text for row in estimators())
    assert "<b>4</b><span>holds</span>" in text
    assert "<b>1</b><span>refuted</span>" in text
    assert "<b>1</b><span>published wordings confirmed</span>" in text
    assert "<b>2</b><span>of all claims on a transformer</span>" in text
    assert "<td>1/2</td>" in text


def test_a_claim_has_the_figures_and_notebooks_that_name_it() -> None:
    text = whole()
    for label, figures, notebooks in (
        ("prop:length", ["one_two"], ["05_x"]),
        ("prop:b-first", ["one_two"], []),
        ("prop:a-second", [], []),
        ("neural:length", [], []),
        ("neural:cost", ["two"], ["11_network", "12_more"]),
    ):
        plain = row(text, label).replace("<wbr>", "")
        assert re.findall(r"href='#figure-(\w+)'", plain) == figures
        assert re.findall(r"<code>(\w+)</code>", plain) == notebooks


def test_hypotheses_and_needs_are_folded_into_the_row() -> None:
    text = whole()
    found = row(text, "prop:length")
    assert "<details><summary>hypotheses and needs</summary><ul><li>rewards &lt; 2</li><li>γ = 1</li>" in found
    assert "<li>checked in groups of 2, 3</li>" in found
    assert "<li>needs <a href='#prop:b-first'>prop:b-first</a>, prop:far</li></ul></details>" in found
    assert "<details>" not in row(text, "prop:b-first")


def test_the_chance_of_an_error_is_said_and_samples_and_identities_err_in_different_ways() -> None:
    text = whole()
    assert "<small>false alarm with probability at most <b>1e-30</b></small>" in row(text, "neural:length")
    assert "<small>wrong with probability at most <b>1e-30</b></small>" in row(text, "prop:b-first")
    sure = page([outcome("prop:length", error_probability=None)], PICTURES, estimators(), SHOWN, SUPPOSED)
    assert "<small>" not in row(sure, "prop:length")


def test_without_networks_a_line_says_why_and_nothing_links_there() -> None:
    text = page(OUTCOMES, PICTURES, estimators(), SHOWN, SUPPOSED, [], "left out: <torch> is missing")
    assert "left out: &lt;torch&gt; is missing" in text
    assert "of all claims on a transformer" not in text
    assert "Two. neural:cost</figcaption>" in text
    assert "href='#neural:cost'" in whole()
    targets = set(re.findall(r"id=['\"]([^'\"]+)['\"]", text))
    assert set(re.findall(r"href=['\"]#([^'\"]+)['\"]", text)) <= targets


def test_committed_pictures_are_found_without_running_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found = pictures(gallery.folder())
    assert {"gamma_weights", "neural_learning_curves"} <= {each.name for each in found}
    assert all(each.png[:4] == b"\x89PNG" and each.caption and each.claims for each in found)


def test_pictures_say_what_their_files_say() -> None:
    (module,) = [gallery.load(path) for path in gallery.sources(gallery.folder()) if path.stem == "gamma_weights"]
    (found,) = [each for each in pictures(gallery.folder()) if each.name == "gamma_weights"]
    assert (found.claims, found.caption) == (module.CLAIMS, module.CAPTION)


def test_the_command_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {registry.GROUP: {"prop:true": TRUE}, registry.NEURAL: {"neural:true": replace(TRUE, label="neural:true")}}
    monkeypatch.setattr(registry, "load", lambda group=registry.GROUP: known[group])
    assert main(["report", "--quick", "--out", str(tmp_path / "new")]) == 0
    assert "1 claims, 1 on networks, " in " ".join(capsys.readouterr().out.split())
    text = (tmp_path / "new" / "index.html").read_text(encoding="utf-8")
    assert "id='prop:true'" in text
    assert "PROVED" in row(text, "prop:true")
    assert "MEASURED" in row(text, "neural:true")  # three cases, in float64
    assert "On a transformer of 2 layers, width 8" in text
    (tmp_path / "file").touch()
    assert main(["report", "--quick", "--out", str(tmp_path / "file")]) == 2
    assert re.match(r"error: --out '.*' cannot be written: .*: name a folder", capsys.readouterr().err)


def test_without_torch_the_page_is_there_and_says_what_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(group: str = registry.GROUP) -> Any:
        if group == registry.NEURAL:
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return {"prop:true": TRUE}

    monkeypatch.setattr(registry, "load", load)
    assert main(["report", "--quick", "--out", str(tmp_path)]) == 0
    said = "Claims on a transformer are left out: torch is missing: pip install 'tpg[neural]'"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said.replace("'", "&#x27;") in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_claim_that_falls_on_networks_decides_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    false = replace(TRUE, label="neural:false", check=lambda p: [Finding("1 = 2", False, "1")])
    known = {registry.GROUP: {"prop:true": TRUE}, registry.NEURAL: {"neural:false": false}}
    monkeypatch.setattr(registry, "load", lambda group=registry.GROUP: known[group])
    assert main(["report", "--quick", "--out", str(tmp_path)]) == 1


# In a browser: a page as the command makes it, with real claims and the committed figures


REAL = (
    "lem:baseline",
    "lem:exact-gradient",
    "thm:trajectory-pg",
    "thm:advantage",
    "prop:gamma-weight",
    "prop:gae-pathwise",
    "prop:reward-class",
    "prop:off-policy",
    "prop:silent-group",
    "prop:trepo-advantage-interpolation",
    "prop:trepo-inverse-probability",
    "claim:token-rewards-reduce-variance",
)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> str:
    claims = {claim.label: claim for claim in registry.choose(REAL)}
    out = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda group=registry.GROUP: claims if group == registry.GROUP else {})
        assert main(["report", "--quick", "--out", str(out)]) == 0
    return (out / "index.html").read_text(encoding="utf-8")


def test_a_real_page_shows_what_files_name_and_its_links_lead_somewhere(real: str) -> None:
    found = shown(gallery.folder().parent)
    for label in REAL:
        plain = row(real, label).replace("<wbr>", "")
        assert tuple(re.findall(r"href='#figure-(\w+)'", plain)) == found.get(label, Shown()).figures
        assert tuple(re.findall(r"<code>(\w+)</code>", plain)) == found.get(label, Shown()).notebooks
        assert "<summary>hypotheses and needs</summary>" in plain
        assert "wrong with probability at most" in plain
    targets = set(re.findall(r"id=['\"]([^'\"]+)['\"]", real))
    assert set(re.findall(r"href=['\"]#([^'\"]+)['\"]", real)) <= targets


PROBE = """<script>
const rows = () => [...document.querySelectorAll("#claims-table tbody tr")].filter(row => !row.hidden);
const labels = () => rows().map(row => row.cells[0].textContent);
const seen = { first: labels(), wide: document.documentElement.scrollWidth <= innerWidth };
const top_of = (text, k) => {
  const range = document.createRange();
  range.setStart(text, k); range.setEnd(text, k + 1);
  return range.getBoundingClientRect().top;
};
const torn = text => [...text.data].some(
  (sign, k) => k > 0 && top_of(text, k) > top_of(text, k - 1) + 2 && !/[-:_]/.test(text.data[k - 1]));
const cells = [...document.querySelectorAll("td:first-child code, td:nth-child(8) code, td:nth-child(7) a")];
const texts = cells.flatMap(cell => [...cell.childNodes]).filter(node => node.nodeType === Node.TEXT_NODE);
seen.torn = texts.filter(torn).map(text => text.data);
const head = document.querySelector("#claims-table th");
head.click(); seen.up = labels();
head.click(); seen.down = labels();
const box = document.querySelector("input[data-for=claims-table]");
box.value = "holds advantage-interpolation"; box.dispatchEvent(new Event("input")); seen.filtered = labels();
const fold = rows()[0].querySelector("details"), list = fold.querySelector("ul");
seen.folded = list.checkVisibility(); fold.querySelector("summary").click(); seen.unfolded = list.checkVisibility();
seen.chance = rows()[0].cells[3].querySelector("small").getBoundingClientRect().height > 0;
const images = [...document.querySelectorAll("figure img")];
seen.images = images.filter(image => image.complete && image.naturalWidth > 0).length;
document.title = JSON.stringify(seen);
</script></html>"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine: `apt-get install chromium` to run it")
@pytest.mark.parametrize("width", [1400, 800])
def test_a_browser_sorts_filters_unfolds_and_shows(width: int, real: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(real.replace("</html>", PROBE), encoding="utf-8")
    flags = [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600"]
    dumped = subprocess.run(
        [BROWSER, *flags, "--dump-dom", file.as_uri()], capture_output=True, timeout=120, check=True
    ).stdout.decode()
    title = re.search(r"<title>(.*?)</title>", dumped)
    assert title is not None
    seen = json.loads(html.unescape(title.group(1)))
    assert sorted(seen["first"]) == sorted(seen["up"]) == sorted(seen["down"])
    assert set(REAL) <= set(seen["first"])
    assert seen["up"] == seen["down"][::-1]
    assert (seen["up"][0], seen["up"][-1]) == (min(seen["first"]), "thm:trajectory-pg")
    assert seen["filtered"] == ["prop:trepo-advantage-interpolation"]
    assert (seen["folded"], seen["unfolded"], seen["chance"]) == (False, True, True)
    assert (seen["wide"], seen["torn"]) == (True, [])  # wide tables scroll by themselves; words stay whole
    assert seen["images"] == len(pictures(gallery.folder()))
    shot = tmp_path / "shot.png"
    plain = tmp_path / "plain.html"
    plain.write_text(real, encoding="utf-8")
    subprocess.run(
        [BROWSER, *flags, f"--screenshot={shot}", plain.as_uri()], capture_output=True, timeout=120, check=True
    )
    assert shot.stat().st_size > 50_000  # not a blank page
