"""What the README and its Chinese page say is true: their links, their code and its values."""
import re
import shutil

import pytest
from helpers import PROJECT

PAGES = {name: (PROJECT / name).read_text("utf-8") for name in ("README.md", ".github/zh.md")}


def blocks(page, language="python"):
    """Return a page's blocks of code, without their comments."""
    codes = re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)
    return [re.sub(r" *# .*", "", code) for code in codes]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_heading_a_file_or_the_web(page):
    for link in re.findall(r'(?:\]\(|src=")(?!https:)([^)"]+)', PAGES[page]):  # ](link), src="link"
        path, _, heading = link.partition("#")
        target = (PROJECT / page).parent / path if path else PROJECT / page
        assert target.is_file(), link
        if heading:
            titles = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
            assert heading in anchors, link  # GitHub makes them so


@pytest.mark.parametrize("language", ["python", "sh", "powershell"])
def test_the_code_is_the_same_on_both_pages(language):
    assert blocks(".github/zh.md", language) == blocks("README.md", language)


@pytest.mark.parametrize("page", PAGES)
def test_the_example_prints_the_numbers_in_its_comments(page, capsys):
    [code] = [code for code in blocks(page) if "layer.k_grad" in code]
    exec(code, {})
    printed = re.findall(r"\d+", capsys.readouterr().out)
    arrays = re.findall(r"# .*?(\[\[.*?\]\])[, \uff0c\n]", PAGES[page])  # in comments
    assert printed == re.findall(r"\d+", " ".join(arrays))


def test_the_training_code_trains_and_other_shapes_fit(data, tmp_path, monkeypatch, capsys):
    shutil.copytree(data, tmp_path / "cv-data")
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks("README.md"):
        if "network.layers = " in code or "network.train(" in code:
            exec(code, names)
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 5 and losses[4] < losses[0]
    assert (tmp_path / "mine.npz").is_file()
    network, np = names["network"], names["np"]
    assert network.forward(np.ones((2, 3, 32, 32))).shape == (2, 5)
