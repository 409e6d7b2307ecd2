"""enable(pipe): the same result, in fewer calls one after the other, and a pipeline that is itself again."""

from __future__ import annotations

import copy
import importlib
import logging
import random
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import zoo

import paraflowkit
from paraflowkit.core.surrogate import Move, Picard, Surrogate, View
from paraflowkit.errors import ParaflowkitError
from paraflowkit.pipelines import Preview, enable
from paraflowkit.solvers.configs import ParaFlowConfig
from paraflowkit.solvers.paraflow import ParaFlow

# Diffusers hands tensors to NumPy in ways that NumPy 2 deprecates, and announces changes of its own.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}") for text in ("__array", ".*is deprecated", ".*deprecated and")
]


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def entry(name: str, module: str) -> zoo.Entry:
    importlib.import_module(f"zoo.{module}")
    return zoo.ENTRIES[name]


def made(pipe: Any, each: zoo.Entry, prompts: int = 1, **more: Any) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return zoo.output(pipe(**{**each.call(prompts), **more}, generator=torch.Generator().manual_seed(3)))


FAST = [
    ("StableDiffusion3Pipeline", "stable_diffusion_3"),
    ("FluxPipeline true guidance", "flux"),
    ("StableDiffusionPipeline", "stable_diffusion"),
    ("StableDiffusionPipeline EulerAncestral", "stable_diffusion"),
    ("StableDiffusionControlNetPipeline two ControlNets", "controls"),
    ("StableDiffusionInpaintPipeline 4 channels", "stable_diffusion"),
    ("StableDiffusionPAGPipeline", "controls"),
    ("ZImagePipeline", "z_image"),
    ("WanPipeline two", "wan"),
    ("DDPMPipeline", "unets"),
]


@pytest.mark.parametrize(("name", "module"), FAST)
def test_tolerance_zero_is_the_pipeline(name: str, module: str) -> None:
    each = entry(name, module)
    pipe = each.build()
    prompts = each.prompts[-1]
    plain = made(pipe, each, prompts)
    with enable(pipe, window=3, tolerance=0.0):
        parallel = made(pipe, each, prompts)
        stats = pipe.paraflow_stats
    assert stats.refused is None
    assert float((parallel - plain).abs().max()) <= 1e-4 * float(plain.abs().max())
    assert stats.sequential <= stats.plain_calls
    assert stats.rounds > 1
    assert stats.largest_change == 0
    assert torch.equal(made(pipe, each, prompts), plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_zoo_at_tolerance_zero() -> None:
    """One entry of each family; the whole zoo is run by docs/examples/pipeline_matrix.py."""
    seen: set[str] = set()
    refused: dict[str, str] = {}
    for name, each in zoo.load().items():
        if each.family in seen:
            continue
        seen.add(each.family)
        pipe = each.build()
        plain = made(pipe, each, each.prompts[0])
        with enable(pipe, window=3, tolerance=0.0):
            parallel = made(pipe, each, each.prompts[0])
            if pipe.paraflow_stats.refused is not None:
                refused[name] = pipe.paraflow_stats.refused
        gap = float((parallel - plain).abs().max() / plain.abs().max().clamp_min(1e-9))
        assert gap <= 1e-4, f"{name}: {gap}"
    assert len(seen) > 30
    assert set(refused) <= {
        "TextToVideoZeroPipeline",
        "CosmosTextToWorldPipeline",
        "HiDreamImagePipeline",
        "GlmImagePipeline",
    }


@pytest.mark.parametrize("solver", ["secant", "paraflow", "paradigms", "parasolver", "parasolver-turbo"])
@pytest.mark.parametrize("tolerance", [0.0, 1e-2])
def test_every_solver_draws_the_shipped_digits(solver: str, tolerance: float) -> None:
    steps = 30 if tolerance else 12
    pipe, plain = drawn(steps)
    with enable(pipe, solver, window=8, tolerance=tolerance, norm="absolute"):
        parallel = draw(pipe, steps)
        stats = pipe.paraflow_stats
    error = float((parallel - plain).square().mean().sqrt())
    assert stats.plain_calls == steps
    if tolerance:
        assert stats.sequential <= 15
        assert error <= tolerance
        assert 0 < stats.largest_change <= tolerance
    else:
        assert stats.sequential <= steps
        assert error <= 1e-6


@cache
def drawn(steps: int) -> tuple[Any, torch.Tensor]:
    """The pipeline of the digits and what it draws by itself."""
    pipe = digits()
    return pipe, draw(pipe, steps)


def digits(name: str = "digits-flow") -> Any:
    from paraflowkit.models.digits.adapter import WEIGHTS
    from paraflowkit.models.digits.pipeline import DigitsPipeline

    pipe = DigitsPipeline.from_pretrained(WEIGHTS / name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, steps: int = 10, classes: tuple[int, ...] = (3, 7), **more: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    call = {"generator": generator, "output_type": "latent", "num_inference_steps": steps, **more}
    return pipe(list(classes), **call).images


def test_prompts_progress_on_their_own() -> None:
    pipe = digits()
    each = [torch.Generator().manual_seed(k) for k in (1, 2, 3)]
    with enable(pipe, window=8, tolerance=1e-2):
        draw(pipe, 30, (1, 8, 4), generator=each)
        together = list(pipe.paraflow_stats.iterations)
        alone: list[int] = []
        for k, digit in ((1, 1), (2, 8), (3, 4)):
            draw(pipe, 30, (digit,), generator=[torch.Generator().manual_seed(k)])
            alone += pipe.paraflow_stats.iterations
    assert together == alone


@pytest.mark.parametrize("max_rows", [1, 3, 5])
def test_rows_are_limited_without_changing_the_counts(max_rows: int) -> None:
    pipe, widest = digits(), 0
    forward = pipe.unet.forward

    def counted(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal widest
        widest = max(widest, len(sample))
        return forward(sample, *args, **kwargs)

    with enable(pipe, window=6, tolerance=1e-2):
        free = draw(pipe, 16)
        rounds = pipe.paraflow_stats.sequential
    pipe.unet.forward = counted
    with enable(pipe, window=6, tolerance=1e-2, max_rows=max_rows):
        limited = draw(pipe, 16)
        assert pipe.paraflow_stats.sequential == rounds
    torch.testing.assert_close(limited, free, atol=1e-4, rtol=1e-3)
    assert widest <= max(max_rows, 4)  # a single call has two digits in two branches


@pytest.mark.parametrize("window", ["adaptive", "fixed", "sliding"])
def test_window_policies(window: str) -> None:
    pipe = digits()
    plain = draw(pipe, 12, (3,))
    with enable(pipe, window=window, tolerance=0.0):
        assert float((draw(pipe, 12, (3,)) - plain).abs().max()) <= 1e-5
        assert pipe.paraflow_stats.sequential <= 12


@pytest.mark.parametrize("norm", ["sigma", "posterior"])
def test_norms_read_the_schedulers_noise(norm: str) -> None:
    pipe = digits("digits-vp")
    plain = draw(pipe, 20)
    with enable(pipe, "paradigms", tolerance=0.02, norm=norm):
        parallel = draw(pipe, 20)
        assert pipe.paraflow_stats.refused is None
        assert pipe.paraflow_stats.sequential < 15
    assert float((parallel - plain).square().mean().sqrt()) < 0.05


def test_a_solver_with_slopes_marches_through_the_pipeline() -> None:
    """A scalar secant slope of the guided output, as quasi-Newton solvers take."""
    seen: list[float] = []

    class Secant(Surrogate):
        def move(self, view: View) -> Move:
            slope = 0.0
            if view.before_at is not None and view.before_output is not None and view.at.shape == view.before_at.shape:
                dx, dm = view.at - view.before_at, view.output - view.before_output
                slope = float((dx * dm).sum() / dx.square().sum().clamp_min(1e-12))
                slope = min(max(slope, -3.0), 3.0)
                seen.append(slope)
            return Move(view.output + slope * (view.x - view.at), view.x)

    class Newtonish(ParaFlow):
        def surrogate(self) -> Surrogate:  # pyright: ignore[reportIncompatibleMethodOverride]
            return Secant(slopes=True)

    pipe = digits()
    plain = draw(pipe, 20, (3,))
    with enable(pipe, Newtonish(ParaFlowConfig(tolerance=0.0)), window=6):
        assert float((draw(pipe, 20, (3,)) - plain).abs().max()) <= 1e-5
        assert pipe.paraflow_stats.sequential <= 20
    assert seen


def attributes(pipe: Any) -> list[Any]:
    networks = [v for v in pipe.components.values() if isinstance(v, torch.nn.Module)]
    return [
        type(pipe),
        dict(vars(pipe)),
        {k: v for k, v in vars(pipe.scheduler).items() if isinstance(v, (int, float, str, bool, type(None)))},
        sorted(vars(pipe.scheduler)),
        [type(m) for n in networks for m in n.modules()],
        [sorted(vars(m)) for n in networks for m in n.modules()],
        [getattr(m, "processor", None) for n in networks for m in n.modules()],
    ]


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_pipeline_is_itself_again(error: type[BaseException] | None) -> None:
    each = entry("StableDiffusionPAGPipeline", "controls")
    pipe = each.build()
    plain = made(pipe, each)
    before = attributes(pipe)
    enable(pipe, window=3, tolerance=0.0)
    if error is None:
        made(pipe, each)
    else:
        calls, forward = 0, pipe.unet.forward

        def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= 3:
                raise error("stop")
            return forward(*args, **kwargs)

        pipe.unet.forward = failing
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(error, match="stop"):
                made(pipe, each)
        del pipe.unet.forward
    assert paraflowkit.enabled(pipe)
    paraflowkit.disable(pipe)
    assert not paraflowkit.enabled(pipe)
    assert attributes(pipe) == before
    assert torch.equal(made(pipe, each), plain)


def test_random_states_end_where_a_plain_call_leaves_them() -> None:
    each = entry("StableDiffusionPipeline EulerAncestral", "stable_diffusion")
    pipe = each.build()
    ends: list[Any] = []
    for parallel in (False, True):
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        generator = torch.Generator().manual_seed(2)
        if parallel:
            enable(pipe, window=4, tolerance=0.0)
        pipe(**each.call(1), generator=generator)
        ends.append((generator.get_state(), torch.get_rng_state(), random.random(), np.random.rand()))  # noqa: NPY002
    paraflowkit.disable(pipe)
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2:] == ends[1][2:]


def test_given_latents_are_used_and_left_alone() -> None:
    pipe = digits()
    latents = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    kept = latents.clone()
    plain = draw(pipe, latents=latents)
    with enable(pipe, tolerance=0.0):
        torch.testing.assert_close(draw(pipe, latents=latents), plain, atol=1e-5, rtol=0)
    assert torch.equal(latents, kept)


def test_callbacks_that_read_see_each_step_once() -> None:
    pipe = digits()
    seen: list[tuple[int, torch.Tensor]] = []

    def look(_: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, tensors["latents"].clone()))
        return {}

    draw(pipe, callback_on_step_end=look)
    plain, seen = seen, []
    with enable(pipe, window=4, tolerance=0.0):
        draw(pipe, callback_on_step_end=look)
        assert pipe.paraflow_stats.sequential <= 10
    assert [n for n, _ in seen] == list(range(10))
    for (_, a), (_, b) in zip(plain, seen, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_callbacks_that_change_something_are_honoured(tolerance: float) -> None:
    pipe = digits()

    def change(_: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] + 0.3} if step == 4 else {}

    plain = draw(pipe, callback_on_step_end=change)
    untouched = draw(pipe)
    assert float((plain - untouched).abs().max()) > 0.1
    with enable(pipe, window=4, tolerance=tolerance):
        torch.testing.assert_close(draw(pipe, callback_on_step_end=change), plain, atol=1e-5 + 5 * tolerance, rtol=0)


def test_interrupting_from_a_callback() -> None:
    each = entry("StableDiffusion3Pipeline", "stable_diffusion_3")
    pipe = each.build()

    def stop(p: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        p._interrupt = step == 2
        return {}

    plain = made(pipe, each, callback_on_step_end=stop)
    with enable(pipe, window=3, tolerance=0.0):
        parallel = made(pipe, each, callback_on_step_end=stop)
    torch.testing.assert_close(parallel, plain, atol=1e-4, rtol=1e-4)


def test_previews_come_nearer_to_the_image() -> None:
    pipe, seen = digits(), list[Preview]()
    with enable(pipe, window=8, tolerance=1e-2, preview=seen.append):
        final = draw(pipe, 30, (3,))
    gaps = [float((p.latents - final).square().mean().sqrt()) for p in seen]
    assert len(seen) > 3
    assert gaps[-1] < 0.2 < gaps[0]
    assert [p.accepted[0] for p in seen] == sorted(p.accepted[0] for p in seen)
    assert all(p.steps == 30 for p in seen)


def test_a_progress_bar_is_drawn_once(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = digits()
    pipe.set_progress_bar_config(disable=False, desc="digits", mininterval=0)
    with enable(pipe, window=4, tolerance=1e-2):
        draw(pipe, 12)
    shown = capsys.readouterr().err
    assert shown.count("12/12") == 1
    assert "digits" in shown


@pytest.mark.parametrize(("effect", "reason"), [(0.05, "differ from those of single calls"), (0.0, "keeps a state")])
def test_a_network_with_a_hidden_state_is_run_plainly(effect: float, reason: str) -> None:
    """One whose answers depend on how often it was asked, and one that only might."""
    pipe = digits()
    forward = pipe.unet.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        pipe.unet.asked += 1
        out = forward(*args, **kwargs)
        out.sample = out.sample * (1 + effect * pipe.unet.asked)
        return out

    pipe.unet.asked, pipe.unet.forward = 0, counting
    enable(pipe, window=4, tolerance=0.0)
    with pytest.warns(UserWarning, match="ran plainly, not parallel in time") as caught:
        draw(pipe)
    assert reason in str(caught[0].message)
    assert reason in pipe.paraflow_stats.refused
    draw(pipe)  # the warning comes once


def test_feature_caches_are_refused_before_anything_runs() -> None:
    from diffusers import PyramidAttentionBroadcastConfig
    from diffusers.hooks import apply_pyramid_attention_broadcast

    each = entry("CogVideoXPipeline", "cogvideo")
    pipe = each.build()
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 2000),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(pipe.transformer, config)
    enable(pipe, tolerance=0.0)
    with pytest.warns(UserWarning, match="feature cache"):
        made(pipe, each)


@pytest.mark.slow
def test_compiled_networks_get_one_shape() -> None:
    shapes: set[tuple[int, ...]] = set()

    def backend(graph: Any, inputs: Any) -> Any:
        shapes.update(tuple(i.shape) for i in inputs if isinstance(i, torch.Tensor) and i.shape[-3:] == (1, 16, 16))
        return graph.forward

    pipe = digits()
    plain = draw(pipe, classes=(3,))
    pipe.unet = torch.compile(pipe.unet, backend=backend, dynamic=False)
    with enable(pipe, window=3, tolerance=0.0):
        parallel = draw(pipe, classes=(3,))
        assert pipe.paraflow_stats.refused is None
    torch.testing.assert_close(parallel, plain, atol=1e-5, rtol=0)
    assert len({s[0] for s in shapes}) <= 3  # one call alone, the checked batch, and every other batch
    torch._dynamo.reset()


def test_what_the_pipeline_itself_refuses_is_its_own_error() -> None:
    pipe = digits()
    with enable(pipe, tolerance=0.0), pytest.raises(ValueError, match="Class 12 does not exist"):
        pipe([12])
    with enable(pipe), pytest.raises(TypeError, match="unexpected keyword argument 'classs'"):
        pipe(classs=[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerence": 1e-3}, "enable: tolerence: unknown setting. Did you mean 'tolerance'?"),
        ({"tolerance": -1}, "enable: tolerance: must be at least 0"),
        ({"window": 0}, "enable: window: expects a number of steps"),
        ({"window": "slidin"}, "Did you mean 'sliding'"),
        ({"window": "fit"}, "use sliding, fixed or adaptive, with max_rows"),
        ({"max_rows": 0}, "max_rows must be a whole number of at least 1"),
        ({"solver": "paraflo"}, "Did you mean 'paraflow'"),
        ({"solver": "parataa"}, "cannot march through a pipeline's own loop"),
        ({"solver": "parasolver", "subintervals": 5}, "cannot be cut into 'subintervals'"),
        ({"solver": "parasolver-turbo", "accept": "all"}, "use 'accept: evaluated'"),
        ({"stride": "printed"}, "enable: stride"),
        ({"entering": "noise"}, "enable: entering"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(arguments: dict[str, Any], message: str) -> None:
    pipe = digits()
    with pytest.raises(ParaflowkitError) as caught:
        enable(pipe, **arguments)
    assert message in str(caught.value)
    assert not paraflowkit.enabled(pipe)


def test_only_pipelines_can_be_enabled() -> None:
    with pytest.raises(ParaflowkitError, match="takes a pipeline of diffusers, got Linear"):
        enable(torch.nn.Linear(2, 2))


def test_enabling_twice_takes_the_new_settings() -> None:
    pipe = digits()
    kind = type(pipe)
    enable(pipe, window=2, tolerance=0.0)
    enable(pipe, window=4, tolerance=1e-2)
    draw(pipe, 12)
    assert pipe.paraflow_stats.window == "window 4"
    paraflowkit.disable(pipe)
    assert type(pipe) is kind
    assert not hasattr(pipe, "paraflow_stats")


def test_a_pipeline_from_an_enabled_one_is_plain() -> None:
    pipe = digits()
    enable(pipe, tolerance=0.0)
    other = copy.copy(pipe)
    assert torch.equal(draw(other), draw(paraflowkit.disable(pipe)))


def test_check_prints_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = digits()
    found = paraflowkit.check(
        pipe, [3, 5], num_inference_steps=20, generator=torch.Generator().manual_seed(1), settings={"tolerance": 1e-2}
    )
    shown = capsys.readouterr().out
    assert found.stats.sequential < 20
    assert found.rmse < 0.05
    assert "sequential rounds for 20 network calls" in shown
    assert "plainly" in shown
    assert not paraflowkit.enabled(pipe)


def test_modular_pipelines() -> None:
    modular = [e for e in zoo.load().values() if e.modular]
    each = next(e for e in modular if "Flux" in e.name)
    pipe = each.build()
    plain = made(pipe, each)
    with enable(pipe, window=3, tolerance=0.0):
        parallel = made(pipe, each)
        stats = pipe.paraflow_stats
    assert stats.refused is None
    assert 1 < stats.sequential <= stats.plain_calls
    torch.testing.assert_close(parallel, plain, atol=1e-4, rtol=1e-4)
    assert torch.equal(made(pipe, each), plain)


def test_picard_and_held_outputs_agree_where_a_step_adds_to_its_state() -> None:
    x, at, output = (torch.randn(2, 3, generator=torch.Generator().manual_seed(k)) for k in range(3))
    view = View(0, x, at, output)

    def step(move: Move) -> torch.Tensor:  # Euler
        return move.x + 0.1 * move.output + (0 if move.shift is None else move.shift)

    torch.testing.assert_close(step(Picard().move(view)), step(Surrogate().move(view)))


def test_a_network_that_looks_at_its_first_row_is_run_plainly() -> None:
    pipe = digits()
    forward = pipe.unet.forward

    def first_time(sample: torch.Tensor, timestep: torch.Tensor, **kwargs: Any) -> Any:
        return forward(sample, timestep[:1].expand(len(sample)), **kwargs)

    pipe.unet.forward = first_time
    plain = draw(pipe)
    enable(pipe, window=4, tolerance=0.0)
    with pytest.warns(UserWarning, match="differ from those of single calls"):
        assert torch.equal(draw(pipe), plain)


@pytest.mark.parametrize("name", ["StableDiffusionPAGImg2ImgPipeline", "StableDiffusionPAGInpaintPipeline"])
def test_loops_shorter_than_the_schedule(name: str) -> None:
    """Everything is evaluated while the pipeline runs: it has its own processors on then, and no gradients."""
    each = entry(name, "controls")
    pipe = each.build()
    plain = made(pipe, each, output_type="latent")
    modes: set[bool] = set()
    forward = pipe.unet.forward
    pipe.unet.forward = lambda *a, **k: (modes.add(torch.is_grad_enabled()), forward(*a, **k))[1]
    with enable(pipe, window=8, tolerance=0.0):
        parallel = made(pipe, each, output_type="latent")
        assert pipe.paraflow_stats.refused is None
    torch.testing.assert_close(parallel, plain, atol=1e-4, rtol=1e-4)
    assert modes == {False}


def test_several_loops_in_one_call() -> None:
    each = entry("HeliosPipeline", "worlds")
    pipe = each.build()
    plain = made(pipe, each)
    with enable(pipe, window=4, tolerance=0.0):
        parallel = made(pipe, each)
        assert pipe.paraflow_stats.refused is None
        assert pipe.paraflow_stats.steps == 12
    torch.testing.assert_close(parallel, plain, atol=1e-4, rtol=1e-4)


def test_guiders_that_switch_hooks_are_run_plainly() -> None:
    each = entry("StableDiffusion3ModularPipeline skipped layers", "modular")
    pipe = each.build()
    plain = made(pipe, each)
    enable(pipe, window=4, tolerance=0.0)
    with pytest.warns(UserWarning, match="has other hooks in some of its calls"):
        assert torch.equal(made(pipe, each), plain)


def test_old_callbacks_are_called_once_a_step() -> None:
    each = entry("StableDiffusionPipeline", "stable_diffusion")
    pipe = each.build()
    seen: list[int] = []
    with enable(pipe, window=3, tolerance=0.0):
        made(pipe, each, callback=lambda step, t, latents: seen.append(step), callback_steps=1)
    assert seen == sorted(set(seen))


def test_a_callback_that_changes_the_weights_is_honoured() -> None:
    def edit(p: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 4:
            with torch.no_grad():
                p.unet.conv_out.weight.mul_(1.5)
        return {}

    plain = draw(digits(), callback_on_step_end=edit)
    pipe = digits()
    with enable(pipe, window=4, tolerance=0.0):
        torch.testing.assert_close(draw(pipe, callback_on_step_end=edit), plain, atol=1e-5, rtol=0)


def test_copies_and_pickles_are_plain() -> None:
    import pickle

    pipe = digits()
    kind = type(pipe)
    enable(pipe, window=4, tolerance=0.0)
    other = copy.deepcopy(pipe)
    assert type(other) is kind
    assert not paraflowkit.enabled(other)
    assert type(pickle.loads(pickle.dumps(pipe.scheduler))) is type(pipe.scheduler)
    paraflowkit.disable(other)
    assert paraflowkit.enabled(pipe)


def test_a_preview_may_use_the_pipelines_networks_and_stop_it() -> None:
    each = entry("StableDiffusion3Pipeline", "stable_diffusion_3")
    pipe = each.build()
    shapes: list[tuple[int, ...]] = []

    def show(preview: Preview) -> None:
        shapes.append(tuple(pipe.vae.decode(preview.latents).sample.shape))
        pipe._interrupt = len(shapes) == 2

    with enable(pipe, window=3, tolerance=0.0, preview=show):
        made(pipe, each)
    assert len(shapes) == 2


def test_a_schedulers_own_step_is_used() -> None:
    pipe = digits()
    step = pipe.scheduler.step

    def doubled(output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return step(output * 1.1, *args, **kwargs)

    pipe.scheduler.step = doubled
    plain = draw(pipe)
    with enable(pipe, window=4, tolerance=0.0):
        torch.testing.assert_close(draw(pipe), plain, atol=1e-5, rtol=0)
    assert pipe.scheduler.step is doubled


@pytest.mark.parametrize("kind", ["accelerate", "group offloading", "layerwise casting"])
def test_offloaded_networks(kind: str) -> None:
    """Hooks that move or cast weights around each call; the devices are all the CPU here."""
    from accelerate import cpu_offload_with_hook
    from diffusers.hooks import apply_group_offloading, apply_layerwise_casting

    pipe, here = digits(), torch.device("cpu")
    if kind == "accelerate":
        cpu_offload_with_hook(pipe.unet, here)
    elif kind == "group offloading":
        apply_group_offloading(pipe.unet, onload_device=here, offload_device=here, offload_type="leaf_level")
    else:
        apply_layerwise_casting(pipe.unet, storage_dtype=torch.float16, compute_dtype=torch.float32)
    plain = draw(pipe, 6)
    with enable(pipe, window=3, tolerance=0.0):
        torch.testing.assert_close(draw(pipe, 6), plain, atol=1e-5, rtol=0)
        assert pipe.paraflow_stats.refused is None


def test_a_second_thread_gets_a_sentence() -> None:
    pipe = digits()
    plain = draw(pipe)
    told: list[str] = []

    def intrude(_: Preview) -> None:
        def other() -> None:
            try:
                draw(pipe)
            except ParaflowkitError as error:
                told.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with enable(pipe, window=4, tolerance=0.0, preview=intrude):
        torch.testing.assert_close(draw(pipe), plain, atol=1e-5, rtol=0)
    assert "is running in another thread" in told[0]
    assert torch.equal(draw(pipe), plain)


@pytest.mark.slow
def test_a_call_within_a_call_is_plain() -> None:
    pipe = digits()
    plain = draw(pipe)
    inner: list[torch.Tensor] = []
    with enable(pipe, window=4, tolerance=0.0, preview=lambda _: inner.append(draw(pipe))):
        torch.testing.assert_close(draw(pipe), plain, atol=1e-5, rtol=0)
        assert pipe.paraflow_stats.refused is None
    assert all(torch.equal(each, plain) for each in inner)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": 1e-3}, "go into settings={'tolerance': …}"),
        ({"settings": "tolerance"}, "settings: expects a dict"),
        ({"settings": {"window": 8}}, "window is an argument of check itself"),
        ({"settings": {"tolerence": 1}}, "Did you mean 'tolerance'"),
        ({"settings": {"tolerance": True}}, "tolerance: expects a number"),
    ],
)
def test_wrong_settings_of_check_are_told(arguments: dict[str, Any], message: str) -> None:
    pipe = digits()
    with pytest.raises(ParaflowkitError) as caught:
        paraflowkit.check(pipe, [3], num_inference_steps=4, **arguments)
    assert message in str(caught.value)


def test_check_leaves_an_enabled_pipeline_enabled(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = digits()
    handle = enable(pipe, window=3, tolerance=1e-2)
    paraflowkit.check(pipe, [3], num_inference_steps=6, settings={"tolerance": 0.0})
    assert paraflowkit.enabled(pipe)
    draw(pipe, 6)
    assert handle.stats is not None
    assert handle.stats.tolerance == 1e-2
    assert "DigitsPipeline with secant, window 3" in repr(handle)
    paraflowkit.disable(pipe)
