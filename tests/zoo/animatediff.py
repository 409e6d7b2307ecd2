"""Videos by UNets: AnimateDiff, Stable Video Diffusion, and older ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from . import add
from ._parts import alive, assemble, clip_text, clip_tokenizer, picture, randn, seeded
from ._unets import SHAPE, controlnet, lively, schedule, unet, vae, xl_unet

FRAMES = 4
SIZE = {"height": 16, "width": 16}
WORDS = {"text_encoder": clip_text, "tokenizer": clip_tokenizer}


def adapter(**more: Any) -> Any:
    """The motion layers for a UNet of :mod:`._unets`."""
    return lively(
        alive(
            seeded(
                diffusers.MotionAdapter,
                block_out_channels=SHAPE["block_out_channels"],
                motion_layers_per_block=1,
                motion_norm_num_groups=8,
                motion_num_attention_heads=2,
                motion_max_seq_length=8,
                **more,
            )
        )
    )


def ddim() -> Any:
    """The scheduler of AnimateDiff."""
    return schedule(diffusers.DDIMScheduler, beta_schedule="linear", clip_sample=False)


def build(make: Any, **parts: Any) -> Any:
    """A pipeline; parts are made anew."""
    filled = {"vae": vae, "unet": unet, "motion_adapter": adapter, "scheduler": ddim} | parts
    return assemble(make, **{name: part() for name, part in filled.items()})


def embeds(n: int, pooled: bool = False, **more: Any) -> dict[str, Any]:
    """Prompt embeddings, guidance, and six steps."""
    call: dict[str, Any] = {"prompt_embeds": randn(n, 6, 16, seed=1), "negative_prompt_embeds": randn(n, 6, 16, seed=2)}
    if pooled:
        call |= {"pooled_prompt_embeds": randn(n, 16, seed=3), "negative_pooled_prompt_embeds": randn(n, 16, seed=4)}
    rest = {"num_frames": FRAMES, "guidance_scale": 4.0, "num_inference_steps": 6, "output_type": "np"}
    return call | rest | SIZE | more


def texts(n: int, **more: Any) -> dict[str, Any]:
    """Prompts as text."""
    call = embeds(n, prompt=["a cat", "a dog"][:n], negative_prompt=["bad", "ugly"][:n], **more)
    del call["prompt_embeds"], call["negative_prompt_embeds"]
    return call


def frames(number: int = FRAMES) -> list[Any]:
    """Images of 16x16 pixels."""
    return [picture(16, seed=i) for i in range(number)]


def transferred(n: int, **more: Any) -> dict[str, Any]:
    """As :func:`embeds`, with a video for every prompt."""
    call = embeds(n, video=[frames() for _ in range(n)] if n > 1 else frames(), strength=0.8, **more)
    del call["num_frames"]
    return call


def sparse() -> Any:
    """A ControlNet that sees few of the frames."""
    shape = SHAPE | {"down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"), "attention_head_dim": 2}
    more = {"conditioning_embedding_out_channels": (8, 16), "motion_num_attention_heads": 2}
    return alive(
        seeded(
            diffusers.SparseControlNetModel,
            conditioning_channels=3,
            concat_conditioning_mask=True,
            use_simplified_condition_embedding=False,
            motion_max_seq_length=8,
            **shape | more,
        ),
        scale=0.2,
    )


def eye(size: int = 224) -> Any:
    """A CLIP vision encoder for images of this size, with four tokens."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "projection_dim": 16}
    config = CLIPVisionConfig(num_hidden_layers=1, image_size=size, patch_size=size // 2, **sizes)
    return seeded(CLIPVisionModelWithProjection, config=config)


def spatio_temporal() -> Any:
    """The UNet of Stable Video Diffusion, for latents of 8x8."""
    return lively(
        alive(
            seeded(
                diffusers.UNetSpatioTemporalConditionModel,
                sample_size=8,
                down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
                up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
                block_out_channels=(32, 32),
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=24,
                layers_per_block=1,
                cross_attention_dim=16,
                num_attention_heads=2,
                num_frames=FRAMES,
            )
        )
    )


def svd_vae() -> Any:
    """Its autoencoder: 16x16 pixels to 8x8."""
    config = {"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2, "layers_per_block": 1}
    return alive(seeded(diffusers.AutoencoderKLTemporalDecoder, sample_size=16, **config))


def euler() -> Any:
    """The scheduler of Stable Video Diffusion."""
    more = {"timestep_type": "continuous", "use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0}
    return schedule(diffusers.EulerDiscreteScheduler, prediction_type="v_prediction", **more)


def still(n: int) -> dict[str, Any]:
    """Stable Video Diffusion: an image for every video, guidance that grows with the frames."""
    call: dict[str, Any] = {"image": [picture(16, seed=i) for i in range(n)], **SIZE}
    return call | {"num_frames": FRAMES, "num_inference_steps": 6, "output_type": "np", "decode_chunk_size": 2}


def cubic() -> Any:
    """A UNet with convolutions over time."""
    shape = {"down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"), "norm_num_groups": 8, "attention_head_dim": 4}
    shape |= {"up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"), "block_out_channels": (16, 32)}
    more = {"layers_per_block": 1, "cross_attention_dim": 16, "sample_size": 8}
    return lively(alive(seeded(diffusers.UNet3DConditionModel, **shape, **more)))


def repeated(n: int) -> dict[str, Any]:
    """Video to video of the first kind: one video for all prompts."""
    call = embeds(n, video=frames(), strength=0.8)
    for name in ("num_frames", "height", "width"):
        del call[name]
    return call


def zero(n: int) -> dict[str, Any]:
    """Text2Video-Zero: three loops of steps, the last with attention across frames."""
    call = {"prompt": ["a cat"], "video_length": 3, "t0": 2, "t1": 3, "guidance_scale": 4.0, "output_type": "np"}
    return call | SIZE | {"num_inference_steps": 6}


controls = {"controlnet": controlnet}
ad = "AnimateDiff"
add("AnimateDiffPipeline", ad, partial(build, diffusers.AnimateDiffPipeline), embeds)
add("AnimateDiffPipeline text", ad, partial(build, diffusers.AnimateDiffPipeline, **WORDS), texts)
add(
    "AnimateDiffVideoToVideoPipeline",
    ad,
    partial(build, diffusers.AnimateDiffVideoToVideoPipeline),
    transferred,
)
add(
    "AnimateDiffControlNetPipeline",
    ad,
    partial(build, diffusers.AnimateDiffControlNetPipeline, **controls, **WORDS),
    partial(texts, conditioning_frames=frames()),
    prompts=(1,),
)
add(
    "AnimateDiffVideoToVideoControlNetPipeline",
    ad,
    partial(build, diffusers.AnimateDiffVideoToVideoControlNetPipeline, **controls, **WORDS),
    partial(transferred, conditioning_frames=frames()),
    prompts=(1,),
)
add(
    "AnimateDiffSparseControlNetPipeline",
    ad,
    partial(build, diffusers.AnimateDiffSparseControlNetPipeline, controlnet=sparse, **WORDS),
    partial(texts, conditioning_frames=frames(2), controlnet_frame_indices=[0, 2]),
)
add(
    "AnimateDiffSDXLPipeline",
    ad,
    partial(build, diffusers.AnimateDiffSDXLPipeline, unet=xl_unet),
    partial(embeds, pooled=True),
)
add(
    "StableVideoDiffusionPipeline",
    "Stable Video Diffusion",
    partial(
        build,
        diffusers.StableVideoDiffusionPipeline,
        vae=svd_vae,
        unet=spatio_temporal,
        scheduler=euler,
        image_encoder=eye,
        feature_extractor=CLIPImageProcessorPil,
    ),
    still,
)
t2v = "ModelScope text to video"
pia = partial(adapter, conv_in_channels=9)
pia_unet = partial(unet, in_channels=4)
add("TextToVideoSDPipeline", t2v, partial(build, diffusers.TextToVideoSDPipeline, unet=cubic), embeds)
add("VideoToVideoSDPipeline", t2v, partial(build, diffusers.VideoToVideoSDPipeline, unet=cubic), repeated, prompts=(1,))
add(
    "PIAPipeline",
    "PIA",
    partial(build, diffusers.PIAPipeline, motion_adapter=pia, unet=pia_unet),
    partial(embeds, image=picture(16)),
)
add(
    "TextToVideoZeroPipeline",
    "Text2Video-Zero",
    partial(build, diffusers.TextToVideoZeroPipeline, requires_safety_checker=bool, **WORDS),
    zero,
    prompts=(1,),
)
