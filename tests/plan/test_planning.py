"""From a config to a plan: what is compiled, how often it runs, what is said of it."""

import dataclasses

import pytest

from attn_lstm.errors import UserError
from attn_lstm.plan import planning
from attn_lstm.plan.compiling import Facts, Refused
from attn_lstm.plan.report import render
from configs import coco
from tests.programs import ROOT, run


@pytest.fixture
def compiles(monkeypatch):
    """Steps that hold 1 GB and 0.1 GB an image of a device, and take a millisecond an image."""
    asked = []

    def compile_step(request):
        asked.append((request.step, request.batch))
        each = request.batch // planning.parse_target(request.target).count
        return Facts(
            flops=each * 197e9,
            bytes=0,
            memory=int(1e9 + 0.1e9 * each),
            returned=each * 8_000,
            sent=0,
            products={"bf16 x bf16": 1},
            collectives={},
            callbacks=[],
        )

    monkeypatch.setattr(planning, "compile_step", compile_step)
    monkeypatch.setattr(planning, "measure_input", lambda config: 100.0)
    return asked


def config_of(method: str = "order_free", **fields):
    config = coco.get_config(method).unlock()
    config.backbone.weights = "resnet152-394f9c45.pth"
    values = {"train.batch_size": 64, "train.steps": 1000, "train.eval_every": 300}
    config.update_from_flattened_dict({**values, "eval.batch_size": 96, **fields})
    return config.lock()


def calls(plan) -> dict[str, tuple[int, int]]:
    return {p.stage.name: (p.stage.batch, p.stage.calls) for p in plan.stages}


def test_kept_features_are_computed_once_and_read_by_all_else(compiles):
    plan = planning.make_plan(config_of(), "v5e:2x2")
    assert (plan.sizes.labels, plan.sizes.train, plan.sizes.validation) == (80, 74_505, 8_278)
    assert calls(plan) == {
        "features": (96, 863),  # 82,783 images
        "training": (64, 1000),
        "validation": (96, 4 * 87),  # at 300, 600, 900 and 1000
    }
    assert [p.stage.decodes for p in plan.stages] == [True, False, False]
    assert (plan.kept, plan.record) == (82_783, 8_000)
    assert sorted(compiles) == [("encode", 96), ("evaluate", 96), ("train", 32), ("train", 64)]


def test_a_backbone_that_joins_later_makes_two_stages(compiles):
    fields = {"backbone.frozen": False, "backbone.unfreeze_step": 400}
    plan = planning.make_plan(config_of(**fields), "h100:8")
    assert calls(plan)["training, head alone"] == (64, 400)
    assert calls(plan)["training"] == (64, 600)
    assert plan.kept == 0


def test_nothing_is_learned_by_the_row_that_remembers(compiles):
    plan = planning.make_plan(config_of("knn"), "v5e:2x2")
    assert list(calls(plan)) == ["features", "validation"]
    assert plan.largest is None


def test_the_text_says_what_fits_how_long_and_that_the_input_is_the_limit(compiles):
    fields = {"backbone.frozen": False, "train.batch_size": 800}
    text = render(planning.make_plan(config_of(**fields), "v5e:2x2"))
    # 200 images of each device hold 21 GB of its 16.8; at most 158 fit.
    assert "training DOES NOT FIT" in text
    assert "about 632 images, 158 a device" in text
    # 4000 images/s ask for 40 cores at 100 images/s, where 4 TPUs come with 112.
    assert "40 cores where there are 112" in text
    assert "THE INPUT IS THE LIMIT" not in text
    assert "the whole run: " in text
    assert "Not known" in text


def test_what_does_not_compile_is_said_beside_the_rest(compiles, monkeypatch):
    compile_step = planning.compile_step

    def refuse(request):
        return Refused("out of memory") if request.step == "train" else compile_step(request)

    monkeypatch.setattr(planning, "compile_step", refuse)
    text = render(planning.make_plan(config_of(), "v5e:2x2"))
    assert "training DOES NOT COMPILE: out of memory" in text
    assert "the whole run" not in text
    assert "| images/s, at most" in text


def test_mistakes_are_found_before_anything_is_compiled(compiles):
    with pytest.raises(UserError, match=r"train\.batch_size"):
        planning.make_plan(config_of(**{"train.batch_size": 30}), "v5e:2x2")
    assert compiles == []


def test_products_of_another_type_and_questions_to_the_host_are_named(compiles, monkeypatch):
    compile_step = planning.compile_step

    def unusual(request):
        products = {"bf16 x bf16": 20, "f32 x f32": 2}
        return dataclasses.replace(compile_step(request), products=products, callbacks=["ask"])

    monkeypatch.setattr(planning, "compile_step", unusual)
    text = render(planning.make_plan(config_of(), "v5e:2x2"))
    assert "training: of 22 products 2 f32 x f32 are not bf16 x bf16" in text
    assert "training asks the host while it runs: ask" in text


@pytest.mark.slow
def test_a_run_on_this_machine_is_planned_by_the_command_which_leaves_nothing_behind(tmp_path):
    config = f"--config={ROOT}/configs/digits.py:order_free"
    finished = run("-m", "attn_lstm.plan", config, "--on=cpu", cwd=tmp_path)
    assert not [*tmp_path.iterdir()]
    assert finished.returncode == 0, finished.stderr
    assert "order_free on digits (8,000 training and 1,000 validation images, 10 labels" in (
        finished.stdout
    )
    assert "the whole run: " in finished.stdout
