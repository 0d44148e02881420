"""Albums, and their questions as they are asked of one image alone."""

import random

import pytest

from lookonce_evaluation.data.albums import ask_alone, held_out_albums
from lookonce_evaluation.data.image_set import Alone
from lookonce_scenes.album import ask_about_one, name_image, sample_album
from lookonce_scenes.world import sample_scene


def test_albums_have_two_to_four_images_and_questions_of_both_kinds():
    albums = held_out_albums(30)
    assert [len(album.images) for album in albums] == [2, 3, 4] * 10
    assert len({album.name for album in albums}) == 30
    kinds = [question.category.startswith("one ") for album in albums for question in album.questions]
    assert 0.3 < sum(kinds) / len(kinds) < 0.7
    for album in albums:
        assert [alone is not None for alone in album.alone] == [q.category.startswith("one ") for q in album.questions]
        assert "one describe" not in {question.category for question in album.questions}
    again = sample_album(int(albums[1].name), 3).questions
    assert set(albums[1].questions) <= set(again)


def test_a_question_alone_names_no_image_and_is_of_the_one_it_named():
    for text, expected in {
        "Is there a star in the second image?": Alone(1, "Is there a star in the image?"),
        "In image 3, what color is it?": Alone(2, "In the image, what color is it?"),
        "The last image: What is it?": Alone(3, "What is it?"),
        "Image 2: What is it?": Alone(1, "What is it?"),
        "The first picture shows what?": Alone(0, "The image shows what?"),
    }.items():
        assert ask_alone(text, 4) == expected
    with pytest.raises(ValueError, match="names no image"):
        ask_alone("What is it?", 4)


def test_every_question_about_one_image_is_understood():
    """Each scene has a number of objects of its own: a question finds the one whose answer it has."""
    rng, seen = random.Random(3), 0
    for seed in range(300):
        scenes = [sample_scene(seed + 1000 * i, i + 1, i + 1) for i in range(3)]
        question = ask_about_one(scenes, rng)
        if question is None or question.category != "one describe":
            continue
        seen += 1
        alone = ask_alone(question.text, 3)
        assert question.answer == scenes[alone.image].caption
    assert seen > 5
    names = {name_image(rng, at, 4) for at in range(4) for _ in range(50)}
    assert {ask_alone(f"Describe {name}.", 4).text for name in names} == {"Describe the image."}
