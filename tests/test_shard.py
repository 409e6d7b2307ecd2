"""Networks too big for one device: sharded over the time group, or held in pieces by ranks that call them together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from paraflowkit.config import RunConfig, loads
from paraflowkit.core.model import VelocityModel
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.callbacks import Callback, Run
from paraflowkit.fabric.evaluator import Evaluator
from paraflowkit.fabric.launch import mesh_sizes
from paraflowkit.fabric.mesh import Mesh, MeshStrategy
from paraflowkit.fabric.predict import Prediction, predict
from paraflowkit.fabric.shard import is_sharded, shard
from paraflowkit.noise import FlowMatching
from paraflowkit.prediction import Prediction as Predicted
from paraflowkit.solution import relative_rmse
from tests.ranks import fabric_of, run_ranks


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.down(nn.functional.gelu(self.up(h)))


class Network(nn.Module):
    """Blocks in a list, and layers around them whose rows no two or three ranks can share evenly."""

    def __init__(self, width: int = 22) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, width), nn.Linear(width, 7)
        self.blocks = nn.ModuleList([Block(width), nn.Identity(), Block(width)])

    def forward(self, h: Tensor) -> Tensor:
        h = self.into(h)
        for block in self.blocks:
            h = block(h)
        return self.out(h)


class Tiny(VelocityModel):
    """Of seven numbers and their time."""

    noise, prediction, shape = FlowMatching(), Predicted.VELOCITY, (7,)

    def __init__(self, most: int = 99) -> None:
        super().__init__()
        self.most = most
        self.calls: list[int] = []
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.network = Network()

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        assert t.dtype == torch.float64
        self.calls.append(len(x))
        if len(x) > self.most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return self.network(torch.cat([x, t.to(x.dtype)[:, None]], 1))


#: Column-wise, then row-wise: the numbers between the two layers of a block are never together.
PLAN = {
    f"blocks.{i}.{name}": style()
    for i in (0, 2)
    for name, style in (("up", ColwiseParallel), ("down", RowwiseParallel))
}


def _config(solver: str = "paraflow", count: int = 3, **sections: Any) -> RunConfig:
    data: dict[str, Any] = {
        "model": "gaussian-mixture",  # another one is given
        "grid": {"steps": 9},
        "solver": solver if solver == "sequential" else {"name": solver, "tolerance": 1e-3},
        "window": {"name": "sliding", "size": 1 if solver == "sequential" else 4},
        "requests": [{"seeds": list(range(count))}],
        "output": {"images": False, "plot": False},
        **sections,
    }
    return loads(json.dumps(data), "run.yaml")


def _alone(precision: str = "32-true", **config: Any) -> tuple[Tensor, list[int]]:
    made = predict(_config(**config), fabric_of(precision=precision), model=Tiny(), save=False)
    return made.samples, [row["iterations"] for row in made.rows]


def _equal(made: Prediction, wanted: tuple[Tensor, list[int]]) -> None:
    assert [row["iterations"] for row in made.rows] == wanted[1]
    assert float(relative_rmse(made.samples, wanted[0]).max()) <= 1e-6


def _held(model: nn.Module) -> int:
    """Bytes of the weights that this process holds."""
    local = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    return sum(p.numel() * p.element_size() for p in local)


def _sharded(rank: int, folder: Path, wanted: list[tuple[Tensor, list[int]]]) -> None:
    ranks, model = dist.get_world_size(), Tiny()
    whole = _held(model)
    fabric = fabric_of(rank, MeshStrategy(shard=True))
    _equal(predict(_config(), fabric, model=model, save=False), wanted[0])
    model.calls.clear()  # a model that is sharded already is taken as it is
    made = predict(_config(count=1), fabric, model=model, save=False)
    _equal(made, wanted[1])
    calls: list[list[int]] = [[] for _ in range(ranks)]
    dist.all_gather_object(calls, model.calls)
    assert len({len(each) for each in calls}) == 1
    assert len({tuple(each) for each in calls}) > 1  # uneven shares
    assert sum(map(sum, calls)) > made.rows[0]["evaluations"]  # a rank without rows called with one all the same
    assert all(isinstance(p, DTensor) for p in model.parameters())
    # The first dimension of each weight is shared evenly but for a rest.
    rest = sum(p[0].numel() * p.element_size() for p in Tiny().parameters())
    assert _held(model) <= whole / ranks + rest
    held = torch.tensor(_held(model))
    dist.all_reduce(held)
    assert int(held) == whole


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_sharded_network_makes_what_a_whole_one_makes(tmp_path: Path, ranks: int) -> None:
    run_ranks(_sharded, ranks, tmp_path, [_alone(), _alone(count=1)])


def _from_the_run_file(rank: int, folder: Path, wanted: Tensor) -> None:
    fabric_of(rank)  # for its environment variables
    data = {"model": "digits-flow", "grid": {"steps": 5}, "requests": [{"classes": [3], "guidance": 2}]}
    data |= {"fabric": {"devices": 4}, "mesh": {"time": 2, "shard": True}, "output": {"folder": str(folder / "run")}}
    made = predict(loads(json.dumps(data), "run.yaml"))
    assert float(relative_rmse(made.samples, wanted).max()) <= 1e-6


@pytest.mark.slow
def test_the_run_file_shards_the_shipped_network(tmp_path: Path) -> None:
    data = {"model": "digits-flow", "grid": {"steps": 5}, "requests": [{"classes": [3], "guidance": 2}]}
    alone = predict(loads(json.dumps(data), "run.yaml"), fabric_of(), save=False)
    run_ranks(_from_the_run_file, 4, tmp_path, alone.samples)


def _in_bfloat16(rank: int, folder: Path, wanted: tuple[Tensor, list[int]]) -> None:
    model = Tiny()
    fabric = fabric_of(rank, MeshStrategy(shard=True), "bf16-true")
    made = predict(_config("sequential", 1), fabric, model=model, save=False)
    assert torch.equal(made.samples, wanted[0])  # the same calls, of one row
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert _held(model) < 0.6 * _held(Tiny()) / 2


def test_a_sharded_network_in_bfloat16(tmp_path: Path) -> None:
    run_ranks(_in_bfloat16, 2, tmp_path, _alone("bf16-true", solver="sequential", count=1))


def _by_hand(rank: int, folder: Path, wanted: tuple[Tensor, list[int]]) -> None:
    """A script that shards a part of the model itself."""
    model, fabric = Tiny(), fabric_of(rank, "ddp")
    shard(model.network, Mesh.of(fabric))
    assert is_sharded(model)
    _equal(predict(_config(), fabric, model=model, save=False), wanted)


def test_a_network_that_the_caller_sharded(tmp_path: Path) -> None:
    run_ranks(_by_hand, 3, tmp_path, _alone())


class Heard(Callback):
    requests = 0

    def on_request_end(self, run: Run, row: dict[str, Any], sample: Tensor) -> None:
        self.requests += 1


def _tensor(rank: int, folder: Path, sizes: dict[str, Any], wanted: tuple[Tensor, list[int]]) -> None:
    model = Tiny()
    whole = _held(model)
    fabric = fabric_of(rank, MeshStrategy(tensor=2, **sizes))
    mesh = Mesh.of(fabric)
    assert (rank // 2 % mesh.time, rank % 2) == (mesh.time_rank, mesh.tensor_rank)
    assert isinstance(fabric.strategy, MeshStrategy)
    parallelize_module(model.network, fabric.strategy.device_mesh["tensor"], PLAN)
    config = _config(output={"folder": str(folder / "run"), "images": False, "plot": False}, run={"batch": 2})
    heard = Heard()
    made = predict(config, fabric, model=model, callbacks=[heard])
    _equal(made, wanted)
    assert (heard.requests > 0) == mesh.leads
    heard_by_all = torch.tensor(heard.requests)
    dist.all_reduce(heard_by_all)
    assert int(heard_by_all) == len(made.rows)
    lines = (folder / "run" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == made.rows
    pieces = 2 * mesh.time if mesh.shard else 2
    assert _held(model) < 1.1 * whole / pieces + 1000


@pytest.mark.parametrize(
    ("ranks", "sizes"),
    [(2, {}), (4, {"time": 2}), (4, {"data": 2}), (4, {"time": 2, "shard": True})],
    ids=["time 1", "time 2", "data 2", "time 2, sharded"],
)
def test_a_network_in_pieces_makes_what_a_whole_one_makes(tmp_path: Path, ranks: int, sizes: dict[str, Any]) -> None:
    run_ranks(_tensor, ranks, tmp_path, sizes, _alone(run={"batch": 2}))


class Flux(VelocityModel):
    """A tiny network of diffusers, whose 16 tokens are the state."""

    noise, prediction, shape = FlowMatching(), Predicted.VELOCITY, (16, 16)

    def __init__(self) -> None:
        super().__init__()
        sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network: Any = FluxTransformer2DModel(
                patch_size=1, in_channels=16, joint_attention_dim=12, pooled_projection_dim=6, axes_dims_rope=(2, 2, 4),
                **sizes,
            )  # fmt: skip
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        ids = torch.arange(16.0)[:, None].expand(16, 3)
        nothing = x.new_ones(len(x), 4, 12), x.new_ones(len(x), 6)
        return self.network(x, *nothing, t.float(), ids, torch.zeros(4, 3), return_dict=False)[0]


def _context(rank: int, folder: Path, wanted: Tensor) -> None:
    model, fabric = Flux(), fabric_of(rank, MeshStrategy(time=2, tensor=2, shard=True))
    # The ranks of `tensor`, in the dimensions that diffusers looks for.
    mesh = init_device_mesh("cpu", (2, 1, 2), mesh_dim_names=("time", "ring", "ulysses"))
    model.network.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, mesh=mesh))
    tokens: list[int] = []
    model.network.transformer_blocks[0].register_forward_pre_hook(
        lambda _, __, given: tokens.append(given["hidden_states"].shape[1]), with_kwargs=True
    )
    made = predict(_config(), fabric, model=model, save=False)
    assert float(relative_rmse(made.samples, wanted).max()) <= 1e-6
    assert set(tokens) == {8}


@pytest.mark.filterwarnings("ignore:`torch.distributed._functional_collectives:FutureWarning")
@pytest.mark.slow
def test_context_parallelism_of_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)  # diffusers asks for one, and does not use it
    alone = predict(_config(), fabric_of(), model=Flux(), save=False)
    run_ranks(_context, 4, tmp_path, alone.samples)


def _other_weights(rank: int, folder: Path) -> None:
    model = Tiny()
    if rank == 2:
        model.network.blocks[2].up.bias.data += 1e-6
    fabric = fabric_of(rank, MeshStrategy(time=2, tensor=2))
    parallelize_module(model.network, Mesh.of(fabric).device_mesh["tensor"], PLAN)  # pyright: ignore
    with pytest.raises(ParaflowkitError, match=r"Rank 2 on .* has other weights than rank 0 on "):
        predict(_config(), fabric, model=model, save=False)


@pytest.mark.slow
def test_the_same_pieces_have_the_same_weights(tmp_path: Path) -> None:
    run_ranks(_other_weights, 4, tmp_path)


def _agree(rank: int, folder: Path) -> None:
    mesh = Mesh.build(1, 2, "cpu", tensor=2)
    assert (mesh.time_rank, mesh.tensor_rank, mesh.leads) == (rank // 2, rank % 2, rank == 0)
    assert (mesh.ranks, mesh.tensor_ranks) == ((rank % 2, rank % 2 + 2), (rank // 2 * 2, rank // 2 * 2 + 1))
    assert mesh.agree(torch.tensor([3, 4 + rank])).tolist() == [3, 4]


def test_decisions_reach_all_ranks_of_a_solve(tmp_path: Path) -> None:
    run_ranks(_agree, 4, tmp_path)


def _refused(rank: int, folder: Path) -> None:
    fabric = fabric_of(rank, MeshStrategy(shard=True))
    times = torch.linspace(0, 1, 10, dtype=torch.float64)
    evaluate = Evaluator(fabric, Tiny(most=2), times, torch.float32)
    rows = torch.zeros(6, 7), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(ParaflowkitError, match=r"too small for 3 rows in a call .* set run\.max_rows to 3 or less\."):
        evaluate(*rows, None)
    with pytest.raises(ParaflowkitError, match="is sharded already, in another precision"):
        Evaluator(fabric, evaluate.model, times, torch.float64)
    with pytest.raises(ParaflowkitError, match=r"fabric\.compile does not go with mesh\.shard"):
        Evaluator(fabric, Tiny(), times, torch.float32, compiled=True)
    with pytest.raises(ParaflowkitError, match="window fit measures the memory of one device"):
        predict(_config(window="fit"), fabric, model=Tiny(), save=False)


@pytest.mark.slow
def test_what_ranks_cannot_do_each_for_itself_is_refused(tmp_path: Path) -> None:
    run_ranks(_refused, 2, tmp_path)


@pytest.mark.parametrize(
    ("given", "sizes"),
    [((4, None, None, 2), (1, 2)), ((4, None, 1, 2), (2, 1)), ((8, 2, None, 2), (2, 2)), ((1, None, None, 1), (1, 1))],
)
def test_sizes_leave_room_for_the_pieces(given: tuple[Any, ...], sizes: tuple[int, int]) -> None:
    assert mesh_sizes(*given, shard=sizes[1] > 1) == sizes


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ParaflowkitError, match=r"^mesh\.tensor=3 does not fit 4 processes: choose sizes whose"):
        mesh_sizes(4, None, None, 3)
    with pytest.raises(ParaflowkitError, match=r"^mesh\.time=2 × mesh\.tensor=4 does not fit 4 processes"):
        mesh_sizes(4, None, 2, 4)
    with pytest.raises(ParaflowkitError, match=r"have one process each: set mesh\.time to 2 or more\.$"):
        mesh_sizes(4, 4, None, shard=True)
    with pytest.raises(ParaflowkitError, match=r"^mesh\.tensor must be at least 1, got 0"):
        MeshStrategy(tensor=0)


def _one(rank: int, folder: Path, wanted: tuple[Tensor, list[int]]) -> None:
    model, fabric = Tiny(), fabric_of(rank, MeshStrategy(shard=True))
    assert isinstance(fabric.strategy, MeshStrategy)
    parallelize_module(model.network, fabric.strategy.device_mesh["tensor"], PLAN)
    _equal(predict(_config(), fabric, model=model, save=False), wanted)
    assert not is_sharded(model)


def test_the_same_script_runs_in_one_process(tmp_path: Path) -> None:
    run_ranks(_one, 1, tmp_path, _alone())
