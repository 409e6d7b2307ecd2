"""``python -m paraflowkit.metrics``: the files that metrics compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paraflowkit.errors import ParaflowkitError
from paraflowkit.metrics.config import SHIPPED

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def references(
    source: Annotated[str, typer.Argument(help="As metrics.references: a folder of images, for instance.")],
    output: Annotated[Path, typer.Argument(help="The .safetensors file that is written.")],
    features: Annotated[str, typer.Option(help="As metrics.features.")] = SHIPPED,
    size: Annotated[int | None, typer.Option(min=1, help="As metrics.reference_size.")] = None,
    device: Annotated[str, typer.Option(help="Of torch.")] = "cpu",
) -> None:
    """Compute the features of a reference set once, for all later runs."""
    from paraflowkit.metrics.features import make_features
    from paraflowkit.metrics.references import load_references, save_references

    try:
        if output.suffix != ".safetensors":
            raise ParaflowkitError(f"{output}: the name of the file must end with .safetensors.")
        network = make_features(features, device)
        found = load_references(source, network, size)
        save_references(found, network, output)
    except ParaflowkitError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{found.count} images, features {network.name}: written to {output}")


@app.command("digits-reference")
def digits_reference(folder: Annotated[Path, typer.Argument(help="Receives the file and its card.")]) -> None:
    """Write the shipped reference set anew."""
    from paraflowkit.metrics.digits_reference import write_digits_reference

    try:
        write_digits_reference(folder)
    except ParaflowkitError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
