"""A predict run with a Fabric of one's own."""

from pathlib import Path

from lightning.fabric import Fabric

from paraflowkit.config import load
from paraflowkit.fabric.predict import predict

fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
fabric.launch()
config = load(Path("configs/digits_flow.yaml"), ["window.size=16", "run.compare=true"])
made = predict(config, fabric, save=False)
print(made.samples.shape, made.summary.iterations, made.summary.rmse)
for row in made.rows:
    print(row["class"], row["seed"], row["result"], row["evaluations"])
