import pytest

from diorama.errors import InputError
from diorama.metrics import proportion
from diorama.systems.video_llava.files import MediaFile
from diorama.systems.video_llava.scoring import (
    BenchmarkQuestion,
    chosen,
    is_right,
    missing_media,
    normalize_answer,
    normalize_gqa,
    says_yes,
    score,
    score_yes_no,
)


@pytest.mark.parametrize("text, same", [
    ("A Red  cube.", "red cube"), ("Two", "2"), ("the", "the"), ("twenty-one", "twenty-one"), ("3.5!", "3.5"),
    ("the man's hat", "man's hat"), ("\uff32\uff25\uff24", "red"), ("yes, it is", "yes it is"), ("?!", ""),
    ("snow_board", "snow board"), ("10 o'clock", "ten o'clock")])
def test_normalized_answers(text, same):
    assert normalize_answer(text) == normalize_answer(same)
    assert normalize_answer(normalize_answer(text)) == normalize_answer(text)


def test_different_answers_stay_different():
    forms = {normalize_answer(t) for t in ("red", "reds", "not red", "red cube", "1", "10", "left", "")}
    assert len(forms) == 8


def test_gqa_keeps_articles_and_strips_marks():
    assert normalize_gqa("  The Left. ") == "the left" and normalize_gqa("'yes'!") == "yes"
    assert normalize_gqa("two") != normalize_gqa("2")


@pytest.mark.parametrize("reply, yes", [
    ("Yes", True), ("yes, there is", True), ("No", False), ("no.", False), ("No, there is not.", False),
    ("There is not a car.", False), ("There is a car. No doubt.", True), ("Nothing is there", True), ("NO", True),
    ("It cannot be seen", True), ("I see\nno dog", False), ("None", True)])
def test_the_yes_or_no_rule_is_the_authors(reply, yes):
    assert says_yes(reply) is yes


CHOICES = ("a dog", "the red ball", "two", "none of them")


@pytest.mark.parametrize("reply, index", [
    ("B", 1), ("b", 1), ("B.", 1), ("(B)", 1), ("B) the red ball", 1), ("B: the dog", 1), (" C, I think", 2),
    ("The answer is D.", 3), ("Answer: (A)", 0), ("The red ball.", 1), ("2", 2), ("dog", 0), ("A dog", 0),
    ("E", None), ("The answer is A or the answer is B", None), ("a ball", None), ("", None), ("I do not know", None)])
def test_a_choice_is_read_from_letter_statement_or_text(reply, index):
    assert chosen(reply, CHOICES) == index


def test_a_text_that_two_choices_share_names_none():
    assert chosen("dog", ("a dog", "the dog")) is None


def question(key, answer="yes", **fields):
    return BenchmarkQuestion(id=key, question="?", answer=answer, **fields)


def absent(tmp_path):
    return (MediaFile("image", tmp_path / "no.png", exists=False),)


def test_scores_are_wilson_proportions_for_all_and_each_kind(tmp_path):
    questions = [question("1", "red", kind="color"), question("2", "two", kind="count"),
                 question("3", "blue", kind="color"), question("4", "4", kind="count", media=absent(tmp_path))]
    found = score(questions, {"1": "Red.", "2": "2", "3": "red"})
    assert found == {"all": proportion(2, 4), "color": proportion(1, 2), "count": proportion(1, 2)}
    assert [q.id for q in missing_media(questions)] == ["4"]


def test_a_right_reply_about_missing_media_is_still_wrong(tmp_path):
    one = question("1", media=absent(tmp_path))
    assert not is_right(one, "yes") and score([one], {"1": "yes"})["all"].mean == 0.0
    assert not is_right(question("2"), " ") and not is_right(question("2", "no", rule="yes or no"), "")


def test_replies_of_other_questions_and_unanswered_ones_are_refused():
    questions = [question("1"), question("2")]
    with pytest.raises(InputError, match=r"1 of 2 questions have no reply .* such as 2\."):
        score(questions, {"1": "yes"})
    with pytest.raises(InputError, match=r"1 of 3 replies belong to no question, such as that to 9\."):
        score(questions, {"1": "yes", "2": "no", "9": "no"})
    with pytest.raises(InputError, match="no questions"):
        score([], {})
    with pytest.raises(InputError, match="comes without an answer"):
        score([question("1", None)], {"1": "yes"})
    with pytest.raises(InputError, match="answers are yes or no"):
        score_yes_no([question("1", "red", rule="yes or no")], {"1": "yes"})


def test_a_choice_is_right_by_letter_or_text():
    one = question("1", "the red ball", choices=CHOICES, rule="choice")
    assert is_right(one, "B") and is_right(one, "Red ball") and not is_right(one, "A") and not is_right(one, "Z")


def test_the_five_numbers_of_yes_or_no_by_hand(tmp_path):
    labels = ["yes"] * 6 + ["no"] * 4
    said = ["Yes"] * 5 + ["No"] + ["Yes"] + ["No"] * 3
    questions = [question(str(i), label, rule="yes or no") for i, label in enumerate(labels)]
    found = score_yes_no(questions, {str(i): reply for i, reply in enumerate(said)})
    assert found.accuracy == proportion(8, 10)
    assert found.precision == proportion(5, 6) and found.recall == proportion(5, 6)
    assert found.f1.mean == pytest.approx(5 / 6) and found.f1.low < 5 / 6 < found.f1.high <= 1
    assert found.yes_share == proportion(6, 10)
    assert score(questions, {str(i): reply for i, reply in enumerate(said)})["all"] == found.accuracy


def test_missing_images_lower_precision_and_recall_and_leave_the_yes_share(tmp_path):
    questions = [question("1", "yes", rule="yes or no"), question("2", "yes", rule="yes or no", media=absent(tmp_path)),
                 question("3", "no", rule="yes or no", media=absent(tmp_path))]
    found = score_yes_no(questions, {"1": "yes"})
    assert found.accuracy == proportion(1, 3) and found.recall == proportion(1, 2)
    assert found.precision == proportion(1, 2) and found.yes_share == proportion(1, 1)


def test_what_cannot_be_counted_is_none(tmp_path):
    only_no = score_yes_no([question("1", "no", rule="yes or no")], {"1": "no"})
    assert only_no.precision is None and only_no.recall is None and only_no.f1 is None
    assert only_no.yes_share.mean == 0.0
    gone = score_yes_no([question("1", "no", rule="yes or no", media=absent(tmp_path))], {})
    assert gone.yes_share is None and gone.accuracy.mean == 0.0
