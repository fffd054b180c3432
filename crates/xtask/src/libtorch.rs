//! `cargo xtask libtorch`: the C++ half of PyTorch, where the build of edict-tch looks for it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::root;

/// The PyTorch that the version of tch in Cargo.toml is made for.
const VERSION: &str = "2.11.0";

/// What to do where there is no way to it.
const REMEDY: &str = "set LIBTORCH to the folder of a PyTorch 2.11.0 (the one with `lib` and `include` in it); `cargo xtask test --no-tch` \
                      does without";

pub(crate) fn run() -> ExitCode {
    match prepare() {
        Ok(path) => {
            println!("libtorch {VERSION}: {}", path.display());
            println!("cargo build --release -p edict-cli --features tch   builds `edict` with it");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Makes sure that there is a libtorch, and returns where.
///
/// # Errors
/// One line that says what is missing and what to do.
pub(crate) fn prepare() -> Result<PathBuf, String> {
    let own = root().join("target/libtorch/torch");
    // Cargo itself sets LIBTORCH to `own` where nobody has set it.
    if let Some(path) = env::var_os("LIBTORCH").map(PathBuf::from).filter(|path| *path != own) {
        return check(&path)
            .map(|()| path.clone())
            .map_err(|found| format!("LIBTORCH is {}, and {found}: unset it, or {REMEDY}", path.display()));
    }
    if check(&own).is_ok() {
        return Ok(own);
    }
    // What does not fit, an older one or a link to a Python that is gone, makes room.
    let _ = fs::remove_file(&own);
    let _ = fs::remove_dir_all(&own);
    let folder = root().join("target/libtorch");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    match pythons(&own) {
        Some(path) => eprintln!("taking the PyTorch {VERSION} of Python, {}", path.display()),
        None => fetch(&folder)?,
    }
    check(&own).map_err(|found| format!("{} should hold libtorch, and {found}", own.display()))?;
    Ok(own)
}

/// Checks that a folder holds the libtorch that is needed.
///
/// # Errors
/// What is wrong with it.
fn check(folder: &Path) -> Result<(), String> {
    let header = folder.join("include/torch/headeronly/version.h");
    let text =
        fs::read_to_string(&header).map_err(|_| format!("there is no PyTorch of version {VERSION} in it"))?;
    match version(&text) {
        Some(found) if found == VERSION => {}
        Some(found) => return Err(format!("that is PyTorch {found}, where {VERSION} is needed")),
        None => return Err(format!("{} names no version", header.display())),
    }
    let library = folder.join("lib/libtorch_cpu.so");
    if library.is_file() || cfg!(not(target_os = "linux")) {
        Ok(())
    } else {
        Err(format!("{} is missing", library.display()))
    }
}

/// Reads the version from PyTorch's header: three defines, one for each of its numbers.
fn version(header: &str) -> Option<String> {
    let number = |name: &str| {
        let line =
            header.lines().find_map(|line| line.strip_prefix("#define TORCH_VERSION_")?.strip_prefix(name));
        line.map(str::trim)
    };
    Some(format!("{}.{}.{}", number("MAJOR ")?, number("MINOR ")?, number("PATCH ")?))
}

/// Links to the PyTorch that Python has, if it is the one needed.
fn pythons(own: &Path) -> Option<PathBuf> {
    let program = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])";
    let output = Command::new("python3").args(["-c", program]).stderr(Stdio::null()).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    check(&path).ok()?;
    link(&path, own).ok()?;
    Some(path)
}

#[cfg(unix)]
fn link(path: &Path, own: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(path, own)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Fetches the parts of PyTorch that are needed from Python's package index, checked by their hashes, and unpacks them.
fn fetch(folder: &Path) -> Result<(), String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(format!("there is no libtorch to fetch for this system: {REMEDY}"));
    }
    eprintln!(
        "fetching libtorch {VERSION} into {} (0.5 GB to fetch, 1.7 GB there, once; `cargo xtask test --no-tch` does without)",
        folder.display()
    );
    let wheels = folder.join("wheels");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--disable-pip-version-check", "--require-hashes", "--no-deps"]);
    // The hashes are those of these wheels, whichever Python asks; its own parts are not used.
    pip.args(["--only-binary=:all:", "--python-version", "3.12"]);
    for platform in ["manylinux_2_28", "manylinux_2_25", "manylinux_2_17", "manylinux2014"] {
        pip.arg("--platform").arg(format!("{platform}_x86_64"));
    }
    pip.arg("--dest").arg(&wheels).arg("-r").arg(root().join("crates/edict-tch/libtorch.txt"));
    succeed(&mut pip, "pip download").map_err(|reason| {
        format!(
            "libtorch could not be fetched ({reason}): it takes Python 3 with pip, and a network; or {REMEDY}"
        )
    })?;
    eprintln!("unpacking");
    // Under another name first, so that what is cut short is not taken for the whole.
    let unpacked = folder.join("unpacking");
    let _ = fs::remove_dir_all(&unpacked);
    let program = "import pathlib, sys, zipfile\n\
                   for wheel in sorted(pathlib.Path(sys.argv[1]).glob('*.whl')):\n\
                   \x20   print('  ' + wheel.name, file=sys.stderr, flush=True)\n\
                   \x20   archive = zipfile.ZipFile(wheel)\n\
                   \x20   parts = ('torch/lib/', 'torch/include/', 'nvidia/', 'torch/version.py')\n\
                   \x20   archive.extractall(sys.argv[2], [n for n in archive.namelist() if n.startswith(parts)])\n";
    succeed(Command::new("python3").args(["-c", program]).arg(&wheels).arg(&unpacked), "unpacking")?;
    // What torch-sys looks into.
    let mark = unpacked.join("torch/build-version");
    fs::write(&mark, VERSION).map_err(|error| format!("{}: {error}", mark.display()))?;
    // Last the one that is looked for.
    for name in ["nvidia", "torch"] {
        let to = folder.join(name);
        let _ = fs::remove_dir_all(&to);
        fs::rename(unpacked.join(name), &to).map_err(|error| format!("{}: {error}", to.display()))?;
    }
    let _ = fs::remove_dir(&unpacked);
    Ok(())
}

fn succeed(command: &mut Command, name: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} ended with {status}")),
        Err(error) => Err(format!("{name} could not be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(major: u32, minor: u32) -> String {
        format!(
            "#pragma once\n/// x\n#define TORCH_VERSION_MAJOR {major}\n#define TORCH_VERSION_MINOR {minor}\n\
             #define TORCH_VERSION_PATCH 0\n#define TORCH_VERSION \\\n  \"{major}.{minor}.0\"\n"
        )
    }

    #[test]
    fn reads_the_version_of_pytorch() {
        assert_eq!(version(&header(2, 11)).as_deref(), Some("2.11.0"));
        assert_eq!(version("#define TORCH_VERSION_MAJOR 2\n"), None);
    }

    #[test]
    fn takes_the_right_libtorch_and_says_what_is_wrong_with_others() {
        let folder = env::temp_dir().join(format!("edict-libtorch-{}", std::process::id()));
        let headers = folder.join("include/torch/headeronly");
        fs::create_dir_all(&headers).unwrap_or_else(|error| panic!("{error}"));
        let found = |text: Option<&str>| {
            if let Some(text) = text {
                fs::write(headers.join("version.h"), text).unwrap_or_else(|error| panic!("{error}"));
            }
            check(&folder)
        };
        let missing = found(None).err().unwrap_or_default();
        let other = found(Some(&header(2, 9))).err().unwrap_or_default();
        let mute = found(Some("nothing")).err().unwrap_or_default();
        let hollow = found(Some(&header(2, 11))).err().unwrap_or_default();
        fs::create_dir_all(folder.join("lib")).unwrap_or_else(|error| panic!("{error}"));
        fs::write(folder.join("lib/libtorch_cpu.so"), "").unwrap_or_else(|error| panic!("{error}"));
        let right = check(&folder);
        let _ = fs::remove_dir_all(&folder);
        assert!(missing.contains("no PyTorch"), "{missing}");
        assert!(other.contains("2.9.0") && other.contains(VERSION), "{other}");
        assert!(mute.contains("no version"), "{mute}");
        assert!(cfg!(not(target_os = "linux")) || hollow.contains("libtorch_cpu.so"), "{hollow}");
        assert_eq!(right, Ok(()));
    }

    #[test]
    fn the_wheels_are_pinned_by_version_and_hash() {
        let path = root().join("crates/edict-tch/libtorch.txt");
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}"));
        let wheels: Vec<_> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        assert_eq!(wheels.len(), 3, "{text}");
        assert!(wheels[0].starts_with(&format!("torch=={VERSION} ")), "{text}");
        for wheel in wheels {
            let hash = wheel.split_once(" --hash=sha256:").map_or("", |(_, hash)| hash);
            assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{wheel}");
        }
    }
}
