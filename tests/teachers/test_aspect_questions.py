import pytest

from tutelage.teachers import AspectQuestionSet, build_question_prompts, generate_questions

WRITTEN = """Sure, here are the questions:
1. Does it have wings?
2) **Is it red?**
(3) Can it fly?
- "Has it four legs?"
* Does it HAVE wings

That was all. 5. Is it round?
"""


def test_repeated_questions_are_one():
    questions = AspectQuestionSet([" Is it  red?", "is it red", "IS IT RED!", "Is it round?"])
    assert list(questions) == ["Is it red?", "Is it round?"]
    assert len(questions) == 2
    assert questions[1] == "Is it round?"
    assert questions[:1] == ("Is it red?",)


@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_round_trip(tmp_path, suffix):
    questions = AspectQuestionSet(["Ist es grün?", "Is it “round”?", "是红色的吗？"])
    assert AspectQuestionSet.from_json(questions.to_json()) == questions
    path = tmp_path / f"questions{suffix}"
    if suffix == ".json":
        questions.save(path)
    else:
        path.write_text("\n".join([*questions, "", "Is it “round”?"]), encoding="utf-8")
    assert AspectQuestionSet.load(path) == questions
    assert hash(AspectQuestionSet.load(path)) == hash(questions)


def test_questions_are_read_from_what_a_model_writes():
    assert list(AspectQuestionSet.from_text(WRITTEN)) == [
        "Does it have wings?",
        "Is it red?",
        "Can it fly?",
        "Has it four legs?",
        "That was all. 5. Is it round?",
    ]


@pytest.mark.parametrize("bad", [[], ["Is it red?", " ?! "]])
def test_no_question_is_refused(bad):
    with pytest.raises(ValueError, match="Expected argument `questions`"):
        AspectQuestionSet(bad)


def test_other_json_and_texts_without_questions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON list of texts"):
        AspectQuestionSet.from_json({"questions": []})
    with pytest.raises(ValueError, match="question mark"):
        AspectQuestionSet.from_text("I cannot do that.")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="at least one question"):
        AspectQuestionSet.load(tmp_path / "empty.txt")


def test_prompts_say_what_the_paper_says():
    write, choose = build_question_prompts(["pug", "beagle"], num_images=3680, n=100, q=50)
    for part in ("3680 images", "2 classes", "pug, beagle", "100 questions", "yes or no"):
        assert part in write
    assert "50" in choose


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 1, 2, 1), "`class_names`"),
        ((["a"], 0, 2, 1), "`num_images`"),
        ((["a"], 1, 2, 0), "`q`"),
        ((["a"], 1, 2, 3), "`n` to be at least 3, but got 2"),
    ],
)
def test_bad_numbers_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_question_prompts(*arguments)


def test_questions_are_written_and_then_chosen_in_one_conversation():
    heard = []

    def reply(conversation):
        heard.append([turn["role"] for turn in conversation])
        if len(conversation) == 1:
            return WRITTEN
        assert conversation[1] == {"role": "assistant", "content": WRITTEN}
        return "1. Can it fly?\n2. Is it red?\n3. Does it have wings?"

    chosen = generate_questions(reply, ["plane", "ball"], num_images=10, n=5, q=2)
    assert list(chosen) == ["Can it fly?", "Is it red?"]
    assert heard == [["user"], ["user", "assistant", "user"]]
    with pytest.raises(ValueError, match="Expected 4 different questions, but the language model chose 3"):
        generate_questions(reply, ["plane", "ball"], num_images=10, n=5, q=4)
