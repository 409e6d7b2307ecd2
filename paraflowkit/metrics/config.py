"""Settings of the metrics; importing this loads no torch."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from paraflowkit.core.config import ComponentConfig
from paraflowkit.errors import did_you_mean

#: What is shipped, as features and as references.
SHIPPED = "digits"


def is_object(value: str) -> bool:
    """Whether a value has the form ``package.module:name``."""
    module, colon, name = value.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])


class MetricsConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.metrics.instruments.Instruments`."""

    features: str | None = Field(
        default=SHIPPED,
        description="Image features for FID, KID, precision and recall: digits (the shipped classifier's), a "
        ".safetensors file of FID's Inception, package.module:Class, or null for none of these metrics.",
    )
    references: str | None = Field(
        default=SHIPPED,
        description="What those metrics compare with: digits (the shipped training images), a folder of PNG or JPEG "
        "files, a .safetensors file of features or of their mean and covariance, package.module:function, or null.",
    )
    reference_size: int | None = Field(
        default=None,
        ge=1,
        description="Height and width in pixels to which images of a reference folder are resized, the shorter side, "
        "and cropped, the longer one; they are left as they are by default.",
    )
    clip: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of a CLIPModel with its tokenizer and image processor, for the CLIP score of prompts.",
    )
    scores: dict[str, str] = Field(
        default={},
        description="Scores of your own: name -> package.module:callable, called with images and requests; it returns "
        "numbers by name.",
    )

    @field_validator("features")
    @classmethod
    def _features_are_one_of_these(cls, value: str | None) -> str | None:
        if value is None or value == SHIPPED or value.endswith(".safetensors") or is_object(value):
            return value
        if value.endswith((".pth", ".pt", ".bin", ".ckpt", ".pkl")):
            raise ValueError(
                f"{value!r} is a pickle, which is never read: turn it into a .safetensors file once, as the page "
                "Metrics of the documentation says"
            )
        near = did_you_mean(value, [SHIPPED]).rstrip("?")
        raise ValueError(f"expects digits, a .safetensors file or package.module:Class, got {value!r}.{near}")

    @field_validator("scores")
    @classmethod
    def _scores_are_callables(cls, scores: dict[str, str]) -> dict[str, str]:
        for name, value in scores.items():
            if not is_object(value):
                raise ValueError(f"{name!r} expects package.module:callable, got {value!r}")
        return scores

    @model_validator(mode="after")
    def _size_has_images(self) -> MetricsConfig:
        given = self.references
        if self.reference_size is not None and (
            given is None or given == SHIPPED or given.endswith(".safetensors") or is_object(given)
        ):
            raise ValueError("'reference_size' resizes the images of a folder, and 'references' names none: remove it")
        return self
