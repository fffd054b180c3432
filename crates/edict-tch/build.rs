//! Finds libtorch, builds the shim against it, and lets this crate's own tests find it when they run.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The PyTorch that this version of tch is made for.
const VERSION: &str = "2.11.0";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/shim.cpp");
    if env::var_os("CARGO_FEATURE_DOC_ONLY").is_some() {
        return ExitCode::SUCCESS;
    }
    let libtorch = match libtorch() {
        Ok(path) => path,
        Err(reason) => {
            println!("cargo::error={reason}");
            return ExitCode::FAILURE;
        }
    };
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        // PyTorch's headers are not ours to warn about.
        .warnings(false)
        // Multiplications and additions are rounded apart, whether or not a processor could do both at once.
        .flag_if_supported("-ffp-contract=off")
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .file("src/shim.cpp")
        .compile("edict_tch_shim");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libtorch.join("lib").display());
    ExitCode::SUCCESS
}

/// Returns the folder that LIBTORCH names, if it is what is needed.
///
/// # Errors
/// One line that says what is missing and how to get it.
fn libtorch() -> Result<PathBuf, String> {
    const REMEDY: &str = "run `cargo xtask libtorch`, or set LIBTORCH to the folder of a PyTorch 2.11.0 (the one with `lib` and `include` in it)";
    let path = env::var_os("LIBTORCH")
        .map(PathBuf::from)
        .ok_or_else(|| format!("edict-tch needs libtorch {VERSION}, and LIBTORCH is not set: {REMEDY}"))?;
    let header = path.join("include/torch/headeronly/version.h");
    println!("cargo::rerun-if-changed={}", header.display());
    if !path.is_dir() {
        return Err(format!(
            "edict-tch needs libtorch {VERSION}, and there is none at {}: {REMEDY}",
            path.display()
        ));
    }
    match version(&header) {
        Some(found) if found == VERSION => Ok(path),
        Some(found) => Err(format!(
            "edict-tch needs libtorch {VERSION}, and the one at {} is {found}: {REMEDY}",
            path.display()
        )),
        None => Err(format!(
            "edict-tch needs libtorch {VERSION}, and the one at {} does not tell its version: {REMEDY}",
            path.display()
        )),
    }
}

/// Reads the version from PyTorch's header: three defines, one for each of its numbers.
fn version(header: &Path) -> Option<String> {
    let text = fs::read_to_string(header).ok()?;
    let number = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name))
            .map(|rest| rest.trim().to_owned())
    };
    Some(format!(
        "{}.{}.{}",
        number("TORCH_VERSION_MAJOR ")?,
        number("TORCH_VERSION_MINOR ")?,
        number("TORCH_VERSION_PATCH ")?
    ))
}
