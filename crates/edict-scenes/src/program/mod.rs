//! The command line.

mod dataset;
mod draw;
mod sheet;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use edict_scenes::{HELD_OUT, SceneError};

/// Draws procedural scenes.
#[derive(Debug, Parser)]
#[command(name = "edict-scenes", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write pictures (images.npy, u8 [count, side, side, 3]) and captions (captions.txt, one scene a line,
    /// its wordings separated by tabs).
    Dataset(Dataset),
    /// Write a contact sheet: scenes, or scenes beside their edits with the changed region.
    Show(Show),
    /// Write one picture, and print the caption that names every attribute.
    Draw(Draw),
}

#[derive(Debug, Args)]
struct Draw {
    /// Seed of the scene
    #[arg(long)]
    seed: u64,
    /// Side of the picture in pixels
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// PNG file to write
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct Dataset {
    /// Number of scenes
    #[arg(long)]
    count: u64,
    /// First seed; the following scenes take the following seeds
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Side of the pictures in pixels
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Captions a scene
    #[arg(long, default_value_t = 8)]
    captions: usize,
    /// Folder to write to; made where it is absent
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct Show {
    /// First seed
    #[arg(long, default_value_t = HELD_OUT)]
    seed: u64,
    /// Scenes down the sheet
    #[arg(long, default_value_t = 6)]
    rows: usize,
    /// Scenes across; ignored with --edits
    #[arg(long, default_value_t = 10)]
    columns: usize,
    /// Side of the pictures in pixels
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Every pixel is drawn this many times as wide and high
    #[arg(long, default_value_t = 2)]
    zoom: usize,
    /// Show each scene with one edit of every attribute, and below it the changed region
    #[arg(long)]
    edits: bool,
    /// PNG file to write
    #[arg(long)]
    out: PathBuf,
}

/// What can go wrong in the program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error(transparent)]
    Scene(#[from] SceneError),
    #[error("{path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Encode { path: PathBuf, source: image::ImageError },
    #[error("{count} scenes from seed {seed} on pass the last seed")]
    Seeds { seed: u64, count: u64 },
    #[error(
        "a sheet needs at least one row, one column and a zoom of 1..=16, and fits in {limit} pixels a side"
    )]
    Sheet { limit: usize },
}

impl ProgramError {
    fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

/// Does what the arguments say.
pub(crate) fn run(arguments: &Arguments) -> Result<(), ProgramError> {
    match &arguments.command {
        Command::Dataset(options) => dataset::write(options),
        Command::Show(options) => sheet::write(options),
        Command::Draw(options) => draw::write(options),
    }
}

/// Prints a line; a reader that has gone away is an error like any other.
fn say(line: &str) -> Result<(), ProgramError> {
    writeln!(std::io::stdout().lock(), "{line}").map_err(ProgramError::write(Path::new("standard output")))
}
