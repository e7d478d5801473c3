import pytest
import torch

from tutelage.data.glyph_attributes import QUESTIONS, glyph_attributes
from tutelage.data.glyphs import ALPHABETS

FONTS = ("DejaVuSans", "DejaVuSerif-Bold", "STIXGeneralItalic", "cmr10")
CHARACTERS = ALPHABETS["alphanumeric"]


@pytest.fixture(scope="module")
def attributes():
    return glyph_attributes(FONTS)


def of(attributes, font, question):
    column = attributes[FONTS.index(font), :, QUESTIONS.index(question)]
    return "".join(character for character, yes in zip(CHARACTERS, column.tolist(), strict=True) if yes)


def test_shapes_are_read_from_the_drawing(attributes):
    assert of(attributes, "DejaVuSans", "Does it enclose a hole?") == "04689ABDOPQRabdegopq"
    assert of(attributes, "DejaVuSans", "Does it enclose two holes?") == "8B"
    assert "g" in of(attributes, "cmr10", "Does it enclose two holes?")  # its g has two storeys
    assert set("AHIMOTUVWXYo") <= set(of(attributes, "DejaVuSans", "Is it the same in a mirror?"))
    assert not set("BCDEFLPR27") & set(of(attributes, "DejaVuSans", "Is it the same in a mirror?"))
    assert set("BCDEHIO") <= set(of(attributes, "DejaVuSans", "Is it the same upside down in a mirror?"))
    assert set("NSZHIO") <= set(of(attributes, "DejaVuSans", "Is it the same after half a turn?"))
    assert set("gjpqy") <= set(of(attributes, "DejaVuSerif-Bold", "Does it reach below the line?"))
    assert not set("acemnorsuvwxzgpqy") & set(of(attributes, "cmr10", "Does it reach up to the height of capitals?"))
    assert set("Ijl") <= set(of(attributes, "DejaVuSans", "Is it narrow?"))


def test_fonts_are_told_apart(attributes):
    for question, fonts in {
        "Is it bold?": {"DejaVuSerif-Bold"},
        "Is it slanted?": {"STIXGeneralItalic"},
        "Has it serifs?": {"DejaVuSerif-Bold", "STIXGeneralItalic", "cmr10"},
    }.items():
        for font in FONTS:
            assert of(attributes, font, question) == (CHARACTERS if font in fonts else "")


def test_characters_have_one_answer_in_all_fonts(attributes):
    assert of(attributes, "cmr10", "Is it a vowel?") == "AEIOUaeiou"
    assert torch.equal(attributes[:, :, :12], attributes[:1, :, :12].expand(4, -1, -1))
    assert attributes.shape == (4, 62, len(QUESTIONS))
    assert len(set(QUESTIONS)) == 26
