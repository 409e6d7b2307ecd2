"""The loop of a pipeline, solved in parallel: 8 digits by the shipped network and a scheduler of diffusers."""

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from paraflowkit import table_from_scheduler
from paraflowkit.models.digits.adapter import WEIGHTS
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import ParaFlowConfig
from paraflowkit.solvers.paraflow import ParaFlow
from paraflowkit.windows.configs import SlidingConfig
from paraflowkit.windows.sliding import Sliding

folder = WEIGHTS / "digits-vp"
unet = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, low_cpu_mem_usage=False)
scheduler = DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler", use_karras_sigmas=True)
scheduler.set_timesteps(25)

table = table_from_scheduler(scheduler)
problem = table.problem(
    lambda x, t, classes: unet(x, t, class_labels=classes).sample,
    shape=(1, 16, 16),
    seeds=list(range(8)),
    cond=torch.arange(8),
)
solution = solve(problem, ParaFlow(ParaFlowConfig(tolerance=5e-3)), Sliding(SlidingConfig(size=8)))

x = problem.x0  # and now the scheduler's own loop
with torch.no_grad():
    for t in scheduler.timesteps:
        out = unet(scheduler.scale_model_input(x, t), t.expand(8), class_labels=torch.arange(8)).sample
        x = scheduler.step(out, t, x).prev_sample
rmse = (solution.x - x).square().mean().sqrt() / x.std()
print(f"{table.source}: {solution.stats.iterations} calls instead of {len(scheduler.timesteps)}, rmse {rmse:.1e}")
