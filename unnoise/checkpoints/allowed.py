"""The allow-list: the classes that a model's configuration may name. A new component adds itself here."""

from unnoise.checkpoints.config import allow
from unnoise.control import rules, self_guidance, step_caching
from unnoise.control.layout.conditioner import PlannedConfig
from unnoise.control.layout.generator import LayoutGeneratorConfig
from unnoise.core import preconditioning, schedules
from unnoise.core.codec import UnconditionalConfig
from unnoise.core.processes import Gaussian, Masked, Product, Torus, UniformCategorical
from unnoise.modalities import conditioning
from unnoise.modalities.image import controlled, editing, in_context, inpainting
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.embeddings import EmbeddedConfig, EmbeddingsConfig
from unnoise.modalities.image.enlarging import EnlargingConfig
from unnoise.modalities.image.latents import LatentsConfig
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.vocabulary import Vocabulary
from unnoise.modalities.image.sizes import SizedNamesConfig, SizedWordsConfig
from unnoise.modalities.table import columns
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.modalities.words import distilled, frozen, gemma, joined, settings, spelling
from unnoise.networks import (
    autoencoder,
    bottlenecks,
    contrastive,
    dc_autoencoder,
    embedding,
    flux,
    kl_autoencoder,
    mp_unet,
    patched,
    pixart,
    sana,
    sd3,
    sd_unet,
    sets,
    table,
    text,
    tiny_autoencoder,
    transformer,
    unet,
    word_encoder,
)
from unnoise.samplers import deis_log, grids, timesteps, unipc

ALLOWED = allow(
    # core
    schedules.LinearVP, schedules.DiscreteVP, schedules.DiscreteCosine, schedules.ZeroTerminal, schedules.Cosine,
    schedules.VE, schedules.EDM, schedules.SubVP, schedules.RectifiedFlow,
    Gaussian, Masked, UniformCategorical, Torus, Product,
    preconditioning.Data, preconditioning.Noise, preconditioning.Score, preconditioning.V, preconditioning.Velocity,
    preconditioning.EDM, preconditioning.AtLogSigma, preconditioning.AboutPicture, preconditioning.AtTimestep,
    preconditioning.Categories, preconditioning.Circular, preconditioning.PerField,
    # time grids
    grids.Uniform, grids.Quadratic, grids.Shifted, grids.Karras, grids.LogSNR,
    timesteps.Leading, timesteps.Trailing, timesteps.Linspace, timesteps.Distilled, timesteps.KarrasBetween,
    timesteps.ExponentialBetween, timesteps.BetaBetween, timesteps.FlowSteps, timesteps.ByTokens, timesteps.FlowBetween,
    timesteps.Angles,
    # samplers that a foreign model asks for by their settings
    deis_log.LogDEIS, unipc.UniPC,
    # networks
    embedding.Sinusoidal, embedding.Fourier, embedding.Learned, embedding.Timesteps,
    unet.UNetConfig, mp_unet.MPUNetConfig, transformer.DiffusionTransformerConfig, sd3.SD3Config, flux.FluxConfig,
    sd_unet.SDUNetConfig, pixart.PixArtConfig, sana.SanaConfig,
    table.TableNetworkConfig, table.TableTransformerConfig,
    patched.PatchedConfig, text.TextEncoderConfig,
    # guidance
    rules.Linear, rules.Projected, rules.ZeroStar,
    self_guidance.Internal, self_guidance.PerturbedAttention, self_guidance.SmoothedAttention,
    step_caching.StepCaching, step_caching.Every, step_caching.Within,
    autoencoder.AutoencoderConfig, autoencoder.Plain, autoencoder.DeepCompression, autoencoder.Unnormalised, autoencoder.Normalised,
    kl_autoencoder.KLAutoencoderConfig, dc_autoencoder.DCAutoencoderConfig, tiny_autoencoder.TinyAutoencoderConfig,
    bottlenecks.KLConfig, bottlenecks.CodebookConfig, bottlenecks.FiniteScalarsConfig,
    # codecs and conditioners
    PixelsConfig, LatentsConfig, TableCodecConfig, columns.Numeric, columns.Categorical, columns.Constant, columns.RowNumber,
    columns.LeftOut,
    EmbeddingsConfig, EmbeddedConfig, contrastive.PictureTowerConfig, sets.SetTransformerConfig,
    UnconditionalConfig, EnlargingConfig, conditioning.LabelsConfig, conditioning.TextConfig,
    SizedNamesConfig, SizedWordsConfig,
    PlannedConfig, LayoutGeneratorConfig, Shapes, Vocabulary,
    frozen.CLIPTextConfig, frozen.T5TextConfig, frozen.SentenceConfig, distilled.DistilledConfig, word_encoder.WordEncoderConfig,
    joined.BesideConfig, joined.EndToEndConfig, joined.OnlyConfig, joined.ZeroedConfig, joined.LowerCaseConfig, joined.SilentConfig,
    joined.CleanedConfig,
    settings.WithSizesConfig, settings.WithShapeConfig, settings.WithGuidanceConfig,
    inpainting.CodedMaskConfig, inpainting.WholeMaskConfig, editing.EditingConfig, controlled.ControlledConfig,
    in_context.InContextConfig,
    gemma.GemmaTextConfig, gemma.InstructedConfig,
    spelling.SpelledConfig,
)  # fmt: skip
