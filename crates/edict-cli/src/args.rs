//! What can be typed, and what is refused before any work begins.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, Args, Parser, Subcommand, ValueEnum};
use edict_candle::DeviceSpec;
use edict_stable_diffusion::{DType, ImageSize};

/// Edit images by exact inversion of diffusion models (EDICT, arXiv:2211.12446).
#[derive(Debug, Parser)]
#[command(name = "edict", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Find the noise that the model turns into an image
    Invert(InvertArgs),
    /// Turn noise into an image: that of an inversion, or fresh noise
    Generate(GenerateArgs),
    /// Change an image: invert it under one prompt, generate under others
    Edit(EditArgs),
    /// Invert an image and generate it again, and measure what is lost
    #[command(mut_args(without(&["sampler", "float"])))]
    Reconstruct(ReconstructArgs),
    /// Show what every sampler loses on one image, in one table
    #[command(mut_args(without(&["sampler", "float"])))]
    Compare(CompareArgs),
    /// Draw one edit at several strengths and guidance scales, from one inversion for each strength
    #[command(mut_args(without(&["strength"])))]
    Sweep(SweepArgs),
    /// Show what a model holds
    Info(InfoArgs),
}

impl Command {
    /// Returns the options of what is printed, which every command has.
    pub(crate) fn output(&self) -> OutputArgs {
        match self {
            Self::Invert(args) => args.output_options,
            Self::Generate(args) => args.output_options,
            Self::Edit(args) => args.output_options,
            Self::Reconstruct(args) => args.output_options,
            Self::Compare(args) => args.output_options,
            Self::Sweep(args) => args.output_options,
            Self::Info(args) => args.output_options,
        }
    }
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long)]
    pub(crate) json: bool,
    /// Print neither progress nor warnings
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ModelArgs {
    /// Model folder in the Hugging Face layout [default: the demo model, which is part of this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Tensor library to compute with [default: candle]
    #[arg(long, value_enum)]
    pub(crate) backend: Option<BackendName>,
    /// Device to compute on: cpu, cuda:N or metal [default: cpu]
    #[arg(long, value_name = "DEVICE", value_parser = DeviceSpec::from_str)]
    pub(crate) device: Option<DeviceSpec>,
    /// Precision of the networks [default: f32]
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<DTypeName>,
    /// Format that weights are kept in while networks compute in f32: f16 and bf16 take half the memory [default: f32]
    #[arg(long, value_enum)]
    pub(crate) weights: Option<WeightsName>,
    /// Number of threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub(crate) threads: Option<u16>,
    /// Let PyTorch take its fastest kernels, with `--backend tch`; exactness is then not promised
    #[arg(long)]
    pub(crate) fast_kernels: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// Steps over the full schedule [default: 50; 20 with the demo model]
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true)]
    pub(crate) steps: Option<usize>,
    /// Share of the schedule that is run, from 0 to 1 [default: 0.8; 1 from fresh noise; 1 with the demo model, except for sdedit]
    #[arg(long, value_name = "S", value_parser = strength, allow_negative_numbers = true)]
    pub(crate) strength: Option<f64>,
    /// How to walk the steps: edict; belm or bdia at half the network calls; ddim, which does not come back; with `edict edit` also sdedit, which adds noise
    /// and inverts nothing [default: edict]
    #[arg(long, value_enum)]
    pub(crate) sampler: Option<SamplerName>,
    /// Compute in floats: exact up to rounding instead of to the last bit
    #[arg(long)]
    pub(crate) float: bool,
    /// Gamma of bdia, above 0 and up to 1 [default: 1]
    #[arg(long, value_name = "G", value_parser = gamma, allow_negative_numbers = true)]
    pub(crate) gamma: Option<f64>,
    /// Mixing weight of edict: auto, which is 0.93^(50/steps), or a number above 0 and up to 1 [default: auto]
    #[arg(long, value_name = "auto|P", allow_negative_numbers = true)]
    pub(crate) mixing_weight: Option<WeightArg>,
    /// With edict, update x first at every step instead of x and y by turns
    #[arg(long)]
    pub(crate) no_leapfrog: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GuidanceArgs {
    /// Guidance scale; 1 turns guidance off [default: that of the inversion; else 3, with the demo model 2, and 1 for `edict invert`]
    #[arg(long, value_name = "G", value_parser = finite, allow_negative_numbers = true)]
    pub(crate) guidance: Option<f64>,
    /// Training timesteps at which guidance is on; outside them the scale is 1
    #[arg(long, value_name = "LO:HI", value_parser = interval)]
    pub(crate) guidance_interval: Option<[usize; 2]>,
    /// Negative prompt [default: empty]
    #[arg(long, value_name = "TEXT")]
    pub(crate) negative: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ImageArgs {
    /// Picture to read: PNG, JPEG or WebP [default with the demo model: a sample scene]
    #[arg(long, value_name = "IN.png")]
    pub(crate) image: Option<PathBuf>,
    /// Sample scene to take as the picture, with the demo model [default: house]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["image", "model"], value_parser = samples())]
    pub(crate) sample: Option<String>,
    /// Crop the picture to the centre and resize it to this size [default with the demo model: 64x64]
    #[arg(long, value_name = "WxH", value_parser = ImageSize::from_str)]
    pub(crate) size: Option<ImageSize>,
    /// Draw the latents from the encoder's posterior with --seed instead of taking its mode
    #[arg(long)]
    pub(crate) sample_posterior: bool,
    /// Seed of the noise for --sample-posterior [default: 0]
    #[arg(long, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct InvertArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// Prompt that describes the picture [default for a sample: its caption]
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// Inversion file to write
    #[arg(long, value_name = "INV.safetensors")]
    pub(crate) output: PathBuf,
    /// Generate the picture again at once, and write nothing unless every bit comes back
    #[arg(long)]
    pub(crate) verify: bool,
    /// Go on from the checkpoint that an interrupted run has left; its settings and picture are kept
    #[arg(long, value_name = "PART.safetensors", conflicts_with = "sample")]
    pub(crate) resume: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) guidance: GuidanceArgs,
    #[command(flatten)]
    pub(crate) output_options: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Prompt to generate under [default: that of the inversion]
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["inversion", "resume"])]
    pub(crate) prompt: Option<String>,
    /// Picture to write
    #[arg(long, value_name = "OUT.png")]
    pub(crate) output: PathBuf,
    /// Inversion to start from, with its settings; fresh noise without it
    #[arg(long, value_name = "INV.safetensors")]
    pub(crate) inversion: Option<PathBuf>,
    /// Also write the latents x and y
    #[arg(long, value_name = "OUT.safetensors")]
    pub(crate) latents: Option<PathBuf>,
    /// Go on from the checkpoint that an interrupted run has left; its settings are kept
    #[arg(long, value_name = "PART.safetensors")]
    pub(crate) resume: Option<PathBuf>,
    /// Size of the picture from fresh noise [default: the model's own]
    #[arg(long, value_name = "WxH", value_parser = ImageSize::from_str)]
    pub(crate) size: Option<ImageSize>,
    /// Seed of fresh noise [default: 0]
    #[arg(long, value_name = "N", conflicts_with = "inversion", value_parser = seed, allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) guidance: GuidanceArgs,
    #[command(flatten)]
    pub(crate) output_options: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EditArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// Prompt that describes the picture [default for a sample: its caption]
    #[arg(long, value_name = "TEXT")]
    pub(crate) source: Option<String>,
    /// Prompt that describes the picture wanted; may be given several times
    #[arg(long, value_name = "TEXT", required_unless_present = "resume")]
    pub(crate) target: Vec<String>,
    /// Picture to write; several targets write OUT-1.png, OUT-2.png, ...
    #[arg(long, value_name = "OUT.png")]
    pub(crate) output: PathBuf,
    /// Guidance scale of the inversion [default: that of --guidance; 1 with the demo model]
    #[arg(long, value_name = "G", value_parser = finite, allow_negative_numbers = true)]
    pub(crate) source_guidance: Option<f64>,
    /// Negative prompt of the inversion [default: that of --negative]
    #[arg(long, value_name = "TEXT")]
    pub(crate) source_negative: Option<String>,
    /// Also write source, reconstruction, edits and their differences side by side
    #[arg(long, value_name = "SHEET.png")]
    pub(crate) sheet: Option<PathBuf>,
    /// Go on from the checkpoint that an interrupted run has left; its settings and picture are kept
    #[arg(long, value_name = "PART.safetensors", conflicts_with = "sample")]
    pub(crate) resume: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) guidance: GuidanceArgs,
    #[command(flatten)]
    pub(crate) output_options: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReconstructArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// Prompt that describes the picture [default for a sample: its caption]
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// Picture to write: EDICT's reconstruction
    #[arg(long, value_name = "OUT.png")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) guidance: GuidanceArgs,
    #[command(flatten)]
    pub(crate) output_options: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// Prompt that describes the picture [default for a sample: its caption]
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// Also draw the table
    #[arg(long, value_name = "OUT.svg")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) guidance: GuidanceArgs,
    #[command(flatten)]
    pub(crate) output_options: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// Prompt that describes the picture [default for a sample: its caption]
    #[arg(long, value_name = "TEXT")]
    pub(crate) source: Option<String>,
    /// Prompt that describes the picture wanted
    #[arg(long, value_name = "TEXT")]
    pub(crate) target: String,
    /// Picture to write: a row for each strength, a column for each guidance scale
    #[arg(long, value_name = "GRID.png")]
    pub(crate) output: PathBuf,
    /// Strengths, between commas [default: 0.6,0.8,1]
    #[arg(long, value_name = "LIST", value_parser = strength, value_delimiter = ',', allow_negative_numbers = true)]
    pub(crate) strengths: Vec<f64>,
    /// Guidance scales, between commas [default: 1,3,5,7; 1,2,3,5 with the demo model]
    #[arg(long, value_name = "LIST", value_parser = finite, value_delimiter = ',', allow_negative_numbers = true)]
    pub(crate) guidances: Vec<f64>,
    /// Mixing weights of edict, between commas: more rows [default: auto]
    #[arg(long, value_name = "LIST", value_delimiter = ',', allow_negative_numbers = true)]
    pub(crate) mixing_weights: Vec<WeightArg>,
    /// Guidance scale of the inversions [default: that of --guidance; 1 with the demo model]
    #[arg(long, value_name = "G", value_parser = finite, allow_negative_numbers = true)]
    pub(crate) source_guidance: Option<f64>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) guidance: GuidanceArgs,
    #[command(flatten)]
    pub(crate) output_options: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct InfoArgs {
    /// Model folder in the Hugging Face layout [default: the demo model, which is part of this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output_options: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    Candle,
    Tch,
}

impl BackendName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::Tch => "tch",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SamplerName {
    Edict,
    Belm,
    Bdia,
    Ddim,
    // Of one command alone, and told by the flag's help.
    #[value(hide = true)]
    Sdedit,
}

impl SamplerName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Edict => "edict",
            Self::Belm => "belm",
            Self::Bdia => "bdia",
            Self::Ddim => "ddim",
            Self::Sdedit => "sdedit",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DTypeName {
    F32,
    F64,
    F16,
    Bf16,
}

impl From<DTypeName> for DType {
    fn from(name: DTypeName) -> Self {
        match name {
            DTypeName::F32 => Self::F32,
            DTypeName::F64 => Self::F64,
            DTypeName::F16 => Self::F16,
            DTypeName::Bf16 => Self::BF16,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightsName {
    F32,
    F16,
    Bf16,
}

impl WeightsName {
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// A mixing weight as typed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum WeightArg {
    Auto,
    Fixed(f64),
}

impl FromStr for WeightArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse() {
            Ok(p) if p > 0.0 && p <= 1.0 => Ok(Self::Fixed(p)),
            _ => Err("it must be auto, or a number above 0 and up to 1, for example 0.93".to_owned()),
        }
    }
}

/// Leaves out of a command's help what it takes, as its siblings do, and has no use for: it warns then.
fn without(useless: &'static [&'static str]) -> impl FnMut(Arg) -> Arg {
    move |argument| {
        let hidden = useless.contains(&argument.get_id().as_str());
        if hidden { argument.hide(true) } else { argument }
    }
}

/// The samples' names, each with what it shows.
fn samples() -> PossibleValuesParser {
    let sample = |sample: &edict_demo_model::Sample| PossibleValue::new(sample.name).help(sample.caption);
    PossibleValuesParser::new(edict_demo_model::SAMPLES.iter().map(sample))
}

fn steps(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|steps| *steps > 0).ok_or_else(|| "it must be a whole number from 1".to_owned())
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("it must be a whole number from 0 to {}", u64::MAX))
}

fn threads(text: &str) -> Result<u16, String> {
    let value = text.parse().ok().filter(|threads| (1..=1024).contains(threads));
    value.ok_or_else(|| "it must be a whole number from 1 to 1024".to_owned())
}

fn strength(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| "it must be a number from 0 to 1".to_owned())
}

fn gamma(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| *value > 0.0 && *value <= 1.0);
    value.ok_or_else(|| "it must be a number above 0 and up to 1, for edits 0.92 to 1".to_owned())
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
        .ok_or_else(|| "it must be a finite number".to_owned())
}

fn interval(text: &str) -> Result<[usize; 2], String> {
    let parse = || {
        let (low, high) = text.split_once(':')?;
        let (low, high) = (low.parse().ok()?, high.parse().ok()?);
        (low <= high).then_some([low, high])
    };
    parse().ok_or_else(|| {
        "it must be LO:HI, two training timesteps, the lower first, for example 200:800".to_owned()
    })
}
