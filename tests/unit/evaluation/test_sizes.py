"""The arithmetic of published models' sizes."""

from lookonce_cache import encode
from lookonce_evaluation.bench.sizes import MODELS, TARGETS, Image, Model, empty_context, markdown, size

TINY = Model("tiny", 2, 2, 64, 6, 4, (Image("any", 100),))


def test_the_size_is_that_of_the_encoded_value():
    for precision in TARGETS:
        for shared in (True, False):
            found = size(TINY, TINY.images[0], precision, shared=shared)
            assert found.context == len(encode(empty_context(TINY, TINY.images[0], precision, shared=shared)))
            assert found.whole == 100 * 2 * 2 * 2 * 64 * 2
            assert found.ratio == found.whole / found.context


def test_tokens_before_the_image_are_paid_for_where_they_are_stored():
    shared, each = (size(TINY, TINY.images[0], "native", shared=shared).context for shared in (True, False))
    assert 0 <= each - shared - 6 * TINY.bytes_a_token() < 64


def test_whole_images_are_as_large_as_known():
    llava = MODELS[0]
    assert llava.name == "LLaVA-1.5-7B"
    assert llava.bytes_a_token() == 512 * 1024
    assert size(llava, llava.images[0], "native", shared=True).whole == 288 * 1024**2


def test_the_table_has_a_row_for_each_image_and_precision():
    assert len(markdown().splitlines()) == 2 + 7 * 3
