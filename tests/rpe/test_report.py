"""Pictures and the HTML report: colours that can be compared, mistakes by name, one page that needs nothing else."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rpe.data import IGNORE, open_dataset
from rpe.metrics import Evaluator
from rpe.report import (
    ColourBasis,
    ReportImage,
    align_labels,
    curves_png,
    embedding_to_rgb,
    find_mistakes,
    image_to_rgb,
    label_to_rgb,
    overlay,
    write_report,
)
from rpe.report.mistakes import CORRECT, FALSE, GROUND, IGNORED, MERGED, MISSED, SPLIT


def clusters(dim: int, noise: float = 0.05) -> torch.Tensor:
    """Four quadrants of one embedding each, `[dim, 16, 16]`."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(4, dim, generator=generator)
    quadrant = (torch.arange(16)[:, None] // 8) * 2 + torch.arange(16)[None, :] // 8
    points = centres[quadrant] + noise * torch.randn(16, 16, dim, generator=generator)
    return torch.nn.functional.normalize(points, dim=-1).permute(2, 0, 1)


class TestColours:
    @pytest.mark.parametrize("dim", [1, 2, 3, 8, 64])
    def test_embedding(self, dim: int) -> None:
        colours = embedding_to_rgb(clusters(dim))
        assert colours.shape == (16, 16, 3) and colours.dtype == np.uint8
        np.testing.assert_array_equal(colours, embedding_to_rgb(clusters(dim).numpy()))
        if dim >= 3:
            quadrants = [
                colours[r : r + 8, c : c + 8].reshape(-1, 3).mean(axis=0) for r in (0, 8) for c in (0, 8)
            ]
            distances = [np.abs(quadrants[i] - quadrants[j]).max() for i in range(4) for j in range(i)]
            assert min(distances) > 40

    def test_random_state_is_left_alone(self) -> None:
        before = torch.random.get_rng_state()
        embedding_to_rgb(clusters(8))
        assert torch.equal(before, torch.random.get_rng_state())

    def test_shared_basis_keeps_colours(self) -> None:
        """The same vector has the same colour in every picture of a basis, whatever else the pictures show."""
        first, second = clusters(8, noise=0.3), clusters(8, noise=0.01)
        second[:, :2] = first[:, :2]
        basis = ColourBasis.fit([first, second])
        np.testing.assert_array_equal(embedding_to_rgb(first, basis)[:2], embedding_to_rgb(second, basis)[:2])
        assert basis.apply(first[:, ::2, ::2]).shape == (8, 8, 3)

    def test_unusual_embeddings(self) -> None:
        embedding = clusters(8)
        embedding[:, 0, 0] = math.nan
        colours = embedding_to_rgb(embedding)
        assert colours[0, 0].tolist() == [0, 0, 0] and colours[8:, 8:].max() > 0
        assert embedding_to_rgb(torch.full((4, 3, 3), math.nan)).max() == 0
        assert len(np.unique(embedding_to_rgb(torch.ones(4, 3, 3)))) == 1
        assert embedding_to_rgb(torch.ones(4, 1, 1)).shape == (1, 1, 3)
        assert embedding_to_rgb(torch.ones(4, 0, 5)).shape == (0, 5, 3)

    def test_wrong_shapes(self) -> None:
        with pytest.raises(ValueError, match="of one D"):
            ColourBasis.fit([torch.ones(4, 3, 3), torch.ones(5, 3, 3)])
        with pytest.raises(ValueError, match="of one D"):
            ColourBasis.fit([torch.ones(4, 3)])
        with pytest.raises(ValueError, match="fitted in 4 dimensions, got 5"):
            ColourBasis.fit([torch.ones(4, 3, 3)]).apply(torch.ones(5, 3, 3))

    def test_labels(self) -> None:
        colours = label_to_rgb(np.array([[0, 1, 2], [IGNORE, 2, 70000]]))
        assert colours[0, 0].tolist() == [0, 0, 0] and len(set(colours[1, 0].tolist())) == 1
        np.testing.assert_array_equal(colours[0, 2], colours[1, 1])
        assert len({tuple(colour) for colour in colours.reshape(-1, 3).tolist()}) == 5
        many = label_to_rgb(torch.arange(1, 61)[None])[0].astype(int)
        assert np.abs(many[1:] - many[:-1]).max(axis=1).min() > 60
        assert many.max(axis=1).min() > 120

    def test_image_and_overlay(self) -> None:
        image = torch.zeros(3, 5, 5)
        image[0] = 1.0
        assert image_to_rgb(image)[0, 0].tolist() == [255, 0, 0]
        label = torch.zeros(5, 5, dtype=torch.int64)
        label[1:4, 1:4] = 2
        picture = overlay(image, label)
        assert picture[0, 0].tolist() == [255, 0, 0]
        np.testing.assert_array_equal(picture[1, 1], label_to_rgb(label)[1, 1])
        assert not np.array_equal(picture[2, 2], picture[1, 1])
        with pytest.raises(ValueError, match="overlay: image"):
            overlay(image, label[:3])


class TestMistakes:
    def test_every_kind(self) -> None:
        target = torch.tensor([[1, 1, 0, 2, 2, 2, 2, 0, 3, 3, 4, 4, 0, 5, 5, 0, 0, -1]])
        prediction = torch.tensor([[7, 7, 0, 8, 8, 9, 9, 0, 6, 6, 6, 6, 0, 0, 0, 0, 5, 5]])
        found = find_mistakes(prediction, target, threshold=0.6)
        expected = [CORRECT] * 2 + [GROUND] + [SPLIT] * 4 + [GROUND] + [MERGED] * 4 + [GROUND]
        expected += [MISSED] * 2 + [GROUND, FALSE, IGNORED]
        assert found.kinds.tolist() == [expected]
        assert found.counts == {"correct": 1, "split": 1, "merged": 2, "missed": 1, "false": 1}
        assert found.caption() == "1 correct, 1 split, 2 merged, 1 missed, 1 false"
        assert found.picture().shape == (1, 18, 3)

    def test_rims_of_a_correct_instance(self) -> None:
        """A neighbour's match reaches in: merged; a stray piece: split; uncovered: missed; beyond: false."""
        target = torch.tensor([[1] * 8 + [0] * 2 + [2] * 4])
        prediction = torch.tensor([[1] * 5 + [5, 9, 0] + [0, 9] + [9] * 4])
        found = find_mistakes(prediction, target)
        assert found.kinds.tolist() == [
            [CORRECT] * 5 + [SPLIT, MERGED, MISSED, GROUND, FALSE] + [CORRECT] * 4
        ]
        assert found.counts["correct"] == 2 and found.counts["false"] == 0

    def test_empty(self) -> None:
        nothing = torch.zeros(2, 2, dtype=torch.int64)
        assert find_mistakes(nothing, nothing).caption() == "nothing here"
        assert find_mistakes(nothing, nothing + 1).counts["missed"] == 1
        assert find_mistakes(nothing + 1, nothing).counts["false"] == 1
        assert find_mistakes(nothing, nothing, has_background=False).counts["correct"] == 1

    def test_align_labels(self) -> None:
        target = torch.tensor([[0, 4, 4, 9, 9]])
        prediction = torch.tensor([[3, 2, 2, 1, 1]])
        assert align_labels(prediction, target).tolist() == [[12, 4, 4, 9, 9]]


class Outside(html.parser.HTMLParser):
    """Collects everything a page would fetch, and its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.pictures: list[bytes] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for key, value in attributes:
            if key in ("src", "href", "srcset", "data") and value:
                if value.startswith("data:image/png;base64,"):
                    self.pictures.append(base64.b64decode(value.split(",")[1]))
                else:
                    self.fetched.append(value)


class TestReport:
    @staticmethod
    def images() -> list[ReportImage]:
        samples = list(open_dataset("synthetic:num_images=2,size=32"))
        loops = [clusters(4, noise) for noise in (0.5, 0.1)]
        shifted = [sample.label.roll(1, 0) for sample in samples]
        return [
            ReportImage("<first> & only", samples[0].image, shifted[0], samples[0].label, loops, "a caption"),
            ReportImage("second", samples[1].image, shifted[1].numpy()),
        ]

    @staticmethod
    def metrics() -> dict:
        evaluator = Evaluator(proposals=[10])
        for sample, kind in zip(
            open_dataset("synthetic:num_images=2,size=32"), ("discs", "<boxes>"), strict=True
        ):
            evaluator.add(sample.name, kind, sample.size, sample.label.roll(1, 0), None, sample.label)
        return evaluator.result()

    def test_page_needs_nothing_else(self, tmp_path: Path) -> None:
        page = tmp_path / "deep" / "report.html"
        curves = {"loss": ([1, 2, 3], [1.0, 0.5, math.nan])}
        beside = write_report(page, "A <title>", {"model": {"dim": 4}}, self.metrics(), curves, self.images())
        text = page.read_text(encoding="utf-8")
        outside = Outside()
        outside.feed(text)
        assert outside.fetched == [] and "url(" not in text and "http" not in text
        assert len(outside.pictures) == 1 + 5 + 2 + 3
        for picture in outside.pictures:
            assert Image.open(io.BytesIO(picture)).convert("RGB").size[0] > 0
        for words in ("A &lt;title&gt;", "&lt;first&gt; &amp; only", "embedding, t = 1", "ground truth"):
            assert words in text
        for words in (
            "discs",
            "&lt;boxes&gt;",
            "model.dim",
            "AP at IoU 0.5",
            "10 proposals",
            "a caption",
            "train-00001",
        ):
            assert words in text
        facts = json.loads(beside.read_text(encoding="utf-8"))
        assert beside == page.with_suffix(".json") and facts["title"] == "A <title>"
        assert facts["curves"]["loss"] == {"steps": [1, 2, 3], "values": [1.0, 0.5, None]}
        assert facts["images"][0]["instances"].keys() == {"correct", "split", "merged", "missed", "false"}
        assert facts["metrics"]["overall"]["images"] == 2
        assert [file.name for file in sorted(page.parent.iterdir())] == ["report.html", "report.json"]

    def test_results_side_by_side(self, tmp_path: Path) -> None:
        both = {"without loops": self.metrics(), "5 loops": self.metrics()}
        write_report(tmp_path / "a.html", "both", {}, both, {}, [])
        text = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert text.count("without loops") >= 3 and "5 loops IoU 0.50:0.95" in text

    def test_nothing_to_show(self, tmp_path: Path) -> None:
        write_report(tmp_path / "a.html", "bare", {}, {}, {"loss": ([], [])}, [])
        assert "<h1>bare</h1>" in (tmp_path / "a.html").read_text(encoding="utf-8")
        write_report(tmp_path / "b.html", "no images", {}, Evaluator().result(), {}, [])
        assert "–" in (tmp_path / "b.html").read_text(encoding="utf-8")

    def test_values_json_does_not_know(self, tmp_path: Path) -> None:
        config = {"path": tmp_path, "size": np.int64(3), "rate": torch.tensor(0.5), "sizes": (1, math.inf)}
        facts = json.loads(write_report(tmp_path / "a.html", "t", config, {}, {}, []).read_text())
        assert facts["config"] == {"path": str(tmp_path), "size": 3, "rate": 0.5, "sizes": [1, None]}

    def test_curves(self) -> None:
        steps = list(range(500))
        png = curves_png({"loss": (steps, [math.exp(-step / 50) for step in steps]), "none": ([], [])})
        picture = Image.open(io.BytesIO(png))
        assert picture.width > 1000 and len(np.unique(np.asarray(picture.convert("L")))) > 10
