"""Real data sets, on files written here with the column layouts of the real ones."""

import json
from collections import Counter

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from amft_lite.batches import refuse_leaks
from amft_lite.tasks import Demonstration, Task, dataset_rows, load_task
from amft_lite.tasks.dataset import DatasetTask
from amft_lite.tasks.dataset_rows import ROWS, Source, question_key, read_question, read_rows

datasets = pytest.importorskip("datasets", reason="pip install 'amft-lite[train]'")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

BASIC = {"question": "question", "answer": "answer", "grader": "math"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def parquet(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path)
    return str(path)


def jsonl(path, records):
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in records), "utf-8")
    return str(path)


def sums(n, start=0):
    return [
        {"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(start, start + n)
    ]


def openr1(n):
    """The layout of Elliott/Openr1-Math-46k-8192, as datasets.yaml describes it."""
    return [
        {
            "data_source": "openr1",
            "prompt": [
                {"role": "system", "content": "Think systematically."},
                {"role": "user", "content": f"Find $x$ with $x - {i} = 1$."},
            ],
            "target": [
                {"role": "assistant", "content": f"<think>\nadd\n</think>\n$\\boxed{{{i + 1}}}$"}
            ],
            "ability": "math",
            "reward_model": {"ground_truth": str(i + 1), "style": "rule"},
            "extra_info": {"index": i, "split": "default"},
        }
        for i in range(n)
    ]  # fmt: skip


def row(name, path, **changes):
    return {**read_rows()[name], "path": path, "name": None, **changes}


def small(tmp_path, n=40, **options):
    path = parquet(tmp_path / "train.parquet", sums(n))
    return DatasetTask(train={"path": path, **BASIC}, **{"validation": 8, **options})


# --- the rows of the package ----------------------------------------------------------------------


def test_every_row_of_the_package_can_be_read_and_says_what_was_checked():
    rows = read_rows()
    assert {"openr1_math_46k", "math500", "gsm8k"} <= set(rows)
    for name, content in rows.items():
        source = Source.from_row(content, name)
        assert source.source.startswith("https://huggingface.co/datasets/" + source.path)
        assert source.license and source.checked
    assert ROWS.suffix == ".yaml"


def test_the_presets_name_rows_that_exist():
    task = load_task("openr1_math", reward="binary")
    assert task.name == "openr1_math" and task.max_new_tokens == 8192
    assert task.splits == (
        "train", "validation", "aime24", "amc", "math500", "minerva", "olympiadbench",
        "arc_c", "gpqa_diamond", "mmlu_pro",
    )  # fmt: skip
    assert load_task("openr1_math", tests=["math500"]).splits == ("train", "validation", "math500")


def test_the_openr1_layout(tmp_path):
    path = parquet(tmp_path / "data" / "train-00000-of-00001.parquet", openr1(30))
    task = DatasetTask(train=row("openr1_math_46k", str(tmp_path)), validation=5)
    assert isinstance(task, Task) and path
    assert len(task.prompts("train")) == 25 and len(task.prompts("validation")) == 5
    example = next(e for e in task.prompts("train") if "x - 7 = 1" in e.prompt)
    assert example.prompt == (
        "Find $x$ with $x - 7 = 1$.\n\n"
        r"Please reason step by step, and put your final answer within \boxed{}."
    )
    assert example.gold == "8"
    for demonstration in task.demonstrations(25) + task.demonstrations(5, split="validation"):
        assert isinstance(demonstration, Demonstration)
        assert demonstration.completion.startswith("<think>")
        assert task.reward(demonstration.example, demonstration.completion).correct
        assert task.reward(demonstration.example, "\\boxed{0}").reason == "wrong_value"


def test_the_layouts_of_the_test_sets(tmp_path):
    files = {
        "math500": [
            {"problem": "Convert to polar.", "solution": "So $\\boxed{(3,\\pi)}$.", "level": 2,
             "answer": "\\left( 3, \\pi \\right)", "subject": "x", "unique_id": "a"}],
        "aime24": [
            {"id": 60, "problem": "Time?", "solution": "s", "answer": "033", "url": "u"}],
        "amc": [{"id": 0, "problem": "Cakes?", "answer": 142.0, "url": "u"}],
        "minerva": [{"question": "Speed?", "answer": "1.6e-19"}],
        "olympiadbench": [{"question": "Roots?", "final_answer": ["2", "3"]}],
        "arc_c": [
            {"id": "a", "question": "Sky?", "answerKey": "3",
             "choices": {"text": ["red", "green", "blue", "pink"], "label": ["1", "2", "3", "4"]}}],
        "gpqa_diamond": [
            {"Question": "Spin?", "Correct Answer": "half", "Incorrect Answer 1": "one",
             "Incorrect Answer 2": "two", "Incorrect Answer 3": "three"}],
        "mmlu_pro": [
            {"question_id": 1, "question": "Law?", "options": list("qrstuvwxyz"), "answer": "J",
             "answer_index": 9, "category": "law"}],
        "gsm8k_test": [{"question": "Clips?", "answer": "48/2 = <<48/2=24>>24 clips\n#### 1,024"}],
    }  # fmt: skip
    right = {
        "math500": "(3,\\pi)", "aime24": "33", "amc": "142", "minerva": r"1.6\times10^{-19}",
        "olympiadbench": "3, 2", "arc_c": "C", "mmlu_pro": "\\text{J}", "gsm8k_test": "1024",
    }  # fmt: skip
    rows = {n: row(n, parquet(tmp_path / f"{n}.parquet", records)) for n, records in files.items()}
    task = DatasetTask(tests=rows)
    assert task.splits == tuple(files)
    for name in files:
        [example] = task.prompts(name)
        assert example.split == name
        if name == "gpqa_diamond":
            shown = next(line for line in example.prompt.splitlines() if line.endswith(". half"))
            assert example.gold == shown[0]
            right[name] = shown[0]
        assert task.reward(example, rf"\boxed{{{right[name]}}}").correct, name
        assert not task.reward(example, r"\boxed{41}").correct
        assert not task.reward(example, right[name]).correct  # no box
    [arc] = task.prompts("arc_c")
    assert "Sky?\n\nA. red\nB. green\nC. blue\nD. pink\n\n" in arc.prompt
    assert "letter" in arc.prompt and "\\boxed{}" in arc.prompt


def test_the_right_option_of_gpqa_is_not_always_the_same_letter():
    source = Source.from_row(read_rows()["gpqa_diamond"], "gpqa_diamond")
    wrong = {f"Incorrect Answer {i}": f"no {i}" for i in (1, 2, 3)}
    letters = Counter(
        read_question(source, {"Question": f"q{i}", "Correct Answer": "yes", **wrong}, i, "t").gold
        for i in range(400)
    )
    assert set(letters) == set("ABCD") and min(letters.values()) > 70  # 100 +- 3.5 sd


def test_gsm8k_experts_lose_their_notes_and_gain_a_box(tmp_path):
    records = [
        {"question": f"Clips {i}?", "answer": f"He has {i}/1 = <<{i}/1={i}>>{i} clips.\n#### {i}"}
        for i in range(20)
    ]
    task = DatasetTask(train=row("gsm8k", jsonl(tmp_path / "a.jsonl", records)), validation=4)
    for demonstration in task.demonstrations(16):
        i = demonstration.example.gold
        assert demonstration.completion == (
            f"He has {i}/1 = {i} clips.\n\nThe final answer is $\\boxed{{{i}}}$."
        )
        assert task.reward(demonstration.example, demonstration.completion).correct


# --- a row of one's own ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_four_keys_and_a_file_make_a_task(tmp_path, suffix):
    records, file = sums(20), tmp_path / f"mine.{suffix}"
    if suffix == "parquet":
        parquet(file, records)
    elif suffix == "jsonl":
        jsonl(file, records)
    else:
        lines = ["question,answer", *(f"{r['question']},{r['answer']}" for r in records)]
        file.write_text("\n".join(lines))
    task = load_task("dataset", train={"path": str(file), **BASIC}, validation=5)
    golds = {e.text: e.gold for s in task.splits for e in task.prompts(s)}
    assert golds == {r["question"]: r["answer"] for r in records}


def test_rows_in_a_yaml_of_one_s_own_are_found_beside_it(tmp_path):
    parquet(tmp_path / "sub" / "questions.parquet", sums(20))
    content = {"mine": {"path": "sub/questions.parquet", **BASIC, "prompt": "Q: {question}",
                        "instruction": "Box it: \\boxed{}."}}  # fmt: skip
    file = tmp_path / "sets.yaml"
    file.write_text(yaml.safe_dump(content))
    task = DatasetTask(train="mine", tests=["math500"], datasets=file)
    assert task.sources["train"].path == str(tmp_path / "sub" / "questions.parquet")
    task = DatasetTask(train="mine", datasets=file, validation=3)
    example = task.prompts("train", 1)[0]
    assert example.prompt == f"Q: {example.text}\n\nBox it: \\boxed{{}}."


def test_copying_the_question_earns_nothing(tmp_path):
    records = [
        {"question": f"Expand $(x + {i})^2$.", "answer": f"x^2+{2 * i}x+{i * i}"} for i in (1, 2)
    ]
    task = DatasetTask(tests={"t": {"path": jsonl(tmp_path / "a.jsonl", records), **BASIC}})
    example = next(e for e in task.prompts("t") if "1" in e.text)
    assert task.reward(example, r"\boxed{(x+1)^2}").reason == "echo"
    assert task.reward(example, r"\boxed{1+2x+x^2}").correct


def test_the_last_message_of_a_role_is_taken():
    source = Source.from_row(read_rows()["openr1_math_46k"], "openr1_math_46k")
    said = [("user", "an example"), ("assistant", "its answer"), ("user", "the question")]
    record = {
        "prompt": [{"role": role, "content": text} for role, text in said],
        "reward_model": {"ground_truth": "1"},
    }
    assert read_question(source, record, 0, "t").text == "the question"


def test_braces_in_a_question_stay():
    source = Source.from_row({"path": "x", **BASIC}, "x")
    text = r"Let \frac{1}{2} {choices} {question} {0}"
    assert read_question(source, {"question": text, "answer": "1"}, 0, "t").prompt.startswith(text)


# --- splits ---------------------------------------------------------------------------------------


def test_splits_share_no_question_and_removed_ones_are_counted(tmp_path):
    train = [*sums(40), {"question": "what is 3+1?", "answer": "4"}]  # blanks and case differ
    train += [{"question": "Long", "answer": "1" * 300}]  # no box of 200 characters can hold it
    test = [*sums(6, start=36), {"question": " What  is 3 + 1? ", "answer": "4"}]
    task = DatasetTask(
        train={"path": parquet(tmp_path / "a.parquet", train), **BASIC},
        tests={"mine": {"path": parquet(tmp_path / "b.parquet", test), **BASIC}},
        validation=10,
    )
    keys = {split: {e.key for e in task.prompts(split)} for split in task.splits}
    assert {split: len(found) for split, found in keys.items()} == {
        "train": 25, "validation": 10, "mine": 7,
    }  # fmt: skip
    assert not (keys["train"] | keys["validation"]) & keys["mine"]
    assert not keys["train"] & keys["validation"]
    assert task.removed == {"repeated": 1, "in_test": 5, "ungradable": 1}
    refuse_leaks(task.prompts("train"), task.prompts("validation"), [])


def test_validation_is_chosen_by_the_question_not_by_its_place(tmp_path):
    first = small(tmp_path / "a")
    records = sums(40)[::-1]
    path = parquet(tmp_path / "b.parquet", records)
    second = DatasetTask(train={"path": path, **BASIC}, validation=8)
    texts = [{e.text for e in task.prompts("validation")} for task in (first, second)]
    assert texts[0] == texts[1] and len(texts[0]) == 8
    grown = DatasetTask(
        train={"path": parquet(tmp_path / "c.parquet", sums(60)), **BASIC}, validation=12
    )
    kept = texts[0] & {e.text for e in grown.prompts("validation")}
    assert len(kept) >= 4  # about 8 stay: the smallest hashes of 60 include most of those of 40


def test_prompts_are_shuffled_passes_fixed_by_the_seed(tmp_path):
    task = small(tmp_path)
    drawn = [e.key for e in task.prompts("train", 80, seed=3)]
    assert set(Counter(drawn[:32]).values()) == {1} and set(Counter(drawn[:64]).values()) == {2}
    assert drawn == [e.key for e in task.prompts("train", 80, seed=3)]
    assert drawn != [e.key for e in task.prompts("train", 80, seed=4)]
    assert drawn[:32] != drawn[32:64]
    assert len(task.prompts("train", 0)) == 0 and task.vocabulary() == []


@given(st.text(min_size=1, max_size=40), st.text(max_size=3))
@settings(max_examples=200, deadline=None)
def test_blanks_and_dollars_never_make_a_new_question(text, more):
    spaced = "  ".join(f"${c}$" if c not in "$ " else c for c in text)
    assert question_key(text) == question_key(f" {text}\n") == question_key(text + "$")
    if text.isascii():
        assert question_key(text) == question_key(spaced) == question_key(text.upper())


# --- bad input, one sentence each -----------------------------------------------------------------


def refused(match, **options):
    with pytest.raises(ValueError, match=match) as caught:
        task = DatasetTask(**{"validation": 2, **options})
        for split in task.splits:
            task.prompts(split)
    assert "\n" not in str(caught.value)


def test_a_missing_column_names_those_that_exist(tmp_path):
    path = parquet(tmp_path / "a.parquet", sums(5))
    refused(
        "has no column 'problem'; its columns: question, answer",
        train={"path": path, **BASIC, "question": "problem"},
    )
    refused("no column 'worked'", train={"path": path, **BASIC, "solution": "worked"})
    nested = parquet(tmp_path / "b.parquet", openr1(5))
    refused(
        "row 0: there is no field 'reward_model.truth'",
        train=row("openr1_math_46k", nested, answer="reward_model.truth"),
    )


def test_an_empty_set_and_a_place_where_nothing_is(tmp_path):
    nothing = pa.array([], pa.string())
    pq.write_table(pa.table({"question": nothing, "answer": nothing}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "a.csv").write_text("question,answer\n")
    for name in ("a.parquet", "a.jsonl", "a.csv"):
        refused("is empty", train={"path": str(tmp_path / name), **BASIC})
    refused("there is no file or folder", train={"path": str(tmp_path / "no.parquet"), **BASIC})
    refused("there is no file or folder", train={"path": "./nowhere", **BASIC})
    (tmp_path / "a.xlsx").write_text("x")
    refused(r"files may be \.parquet, \.jsonl", train={"path": str(tmp_path / "a.xlsx"), **BASIC})
    (tmp_path / "broken.parquet").write_text("x")
    refused("cannot be read", train={"path": str(tmp_path / "broken.parquet"), **BASIC})
    (tmp_path / "folder").mkdir()
    refused("cannot be read", train={"path": str(tmp_path / "folder"), **BASIC})


def test_a_hub_id_out_of_reach_says_so():
    assert datasets.config.HF_HUB_OFFLINE
    refused("the hub must be in reach", tests={"t": {"path": "nobody/nothing-of-ours", **BASIC}})


@pytest.mark.parametrize(
    ("answer", "grader", "match"),
    [
        (None, "math", "must be text or a number, not 'None'"),
        (True, "math", "must be text or a number, not 'True'"),
        (" ", "math", "must be text or a number"),
        ([1, 2], "math", "must be text"),
        (float("nan"), "integer", "must be text or a number, not 'nan'"),
        (0.5, "integer", "the grader integer cannot grade the answer '0.5'"),
        ("Paris", "choice", "the grader choice cannot grade the answer 'Paris'"),
    ],
)
def test_answers_that_are_none(tmp_path, answer, grader, match):
    records = [{"question": f"q{i}", "answer": answer} for i in range(4)]
    path = parquet(tmp_path / "a.parquet", records)
    refused(match, train={"path": path, **BASIC, "grader": grader})


@pytest.mark.parametrize(("value", "gold"), [(7, "7"), (7.0, "7"), (0.25, "0.25"), ("$7$", "7")])
def test_numbers_are_answers_too(tmp_path, value, gold):
    records = [{"question": f"q{i}", "answer": value} for i in range(4)]
    path = parquet(tmp_path / "a.parquet", records)
    task = DatasetTask(train={"path": path, **BASIC}, validation=1)
    assert {e.gold for e in task.prompts("train")} == {gold}


def test_rows_that_are_wrong():
    good = {"path": "a.parquet", **BASIC}
    refused(
        "no grader is called 'sympy'; known graders: integer", train={**good, "grader": "sympy"}
    )
    refused("the keys answer, grader are missing", train={"path": "a", "question": "q"})
    refused("unknown keys trust_remote_code", train={**good, "trust_remote_code": "yes"})
    refused("answer must be text, not 3", train={**good, "answer": 3})
    refused("no {question}", train={**good, "prompt": "hello"})
    refused("choices go with the grader choice", train={**good, "choices": "options"})
    refused("the answer's among them", train={**good, "grader": "choice", "choices": ["a", "b"]})
    refused("no data set is called 'maths500'; known: openr1_math_46k", tests=["maths500"])
    refused("a test set cannot be called validation", tests={"validation": good})
    refused("name a set: train or tests")
    refused("a row is a mapping", tests={"mine": ["a"]})
    refused("binary only", train="gsm8k", reward="shaped")
    refused("at least 1", train="gsm8k", validation=0)


def test_a_yaml_that_cannot_be_read(tmp_path):
    refused("cannot be read", train="mine", datasets=tmp_path / "no.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    refused("must map names to data sets", train="mine", datasets=tmp_path / "list.yaml")


def test_what_a_set_does_not_have(tmp_path):
    task = small(tmp_path)
    with pytest.raises(ValueError, match="no worked answers; name their column by the key `solu"):
        task.demonstrations(1)
    with pytest.raises(ValueError, match="no split is called 'test'; known: train, validation"):
        task.prompts("test")
    with pytest.raises(ValueError, match="no split is called 'test'"):
        task.demonstrations(1, split="test")
    path = parquet(tmp_path / "b.parquet", sums(8))
    task = DatasetTask(train={"path": path, **BASIC}, validation=8)
    assert len(task.prompts("validation")) == len(task.prompts("train")) == 4  # half of them
    gsm = parquet(tmp_path / "c.parquet", [{"question": "q", "answer": "24"}])
    refused("row 0: answer has no '####'", tests={"t": row("gsm8k_test", gsm)})
    arc = [
        {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "E"}
    ]
    refused(
        "'E' is none of the choices",
        tests={"t": row("arc_c", parquet(tmp_path / "d.parquet", arc))},
    )
    chat = [{"prompt": [{"role": "system", "content": "s"}], "reward_model": {"ground_truth": "1"},
             "target": "t"}]  # fmt: skip
    refused(
        "messages, one by the user",
        tests={"t": row("openr1_math_46k", parquet(tmp_path / "e.parquet", chat))},
    )


def test_missing_packages_are_one_sentence(tmp_path, monkeypatch):
    import builtins

    task, real = small(tmp_path), builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'amft-lite\[train\]'"):
        task.prompts("train")


def test_nothing_is_read_before_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(dataset_rows, "open_table", lambda source: 1 / 0)
    assert load_task("openr1_math").splits[0] == "train"


def test_no_code_of_a_data_set_is_run():
    source = (ROWS.parent / "dataset_rows.py").read_text() + ROWS.read_text()
    assert "trust_remote_code" not in source
