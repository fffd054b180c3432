//! The files of a command, looked at before any work is done.

use std::path::{Path, PathBuf};

use edict_stable_diffusion::check_writable;

use crate::failure::Failure;
use crate::progress::Reporter;

/// A file, by the flag that names it.
pub(crate) type Named<'p> = (&'static str, &'p Path);

/// What an output is written as.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Format {
    Picture,
    Plot,
    Tensors,
}

/// Refuses outputs that would replace an input or each other, and those that cannot be written.
pub(crate) fn check<const N: usize>(
    inputs: [(&'static str, Option<&Path>); N],
    outputs: &[Named<'_>],
) -> Result<(), Failure> {
    let mut known: Vec<(&str, PathBuf)> =
        inputs.iter().filter_map(|(flag, path)| Some((*flag, identity((*path)?)))).collect();
    for (flag, path) in outputs {
        let file = identity(path);
        if let Some((other, _)) = known.iter().find(|(_, known)| *known == file) {
            return Err(Failure::usage(format!(
                "{other} and {flag} name the same file, {}: name another output",
                path.display()
            )));
        }
        known.push((flag, file));
    }
    Ok(outputs.iter().try_for_each(|(_, path)| check_writable(path))?)
}

/// The file that a path names, however that is spelled; it need not be there.
fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        // A link may name what is not there yet.
        let link = path.read_link().ok().zip(path.parent());
        let path = link.map_or_else(|| path.to_owned(), |(to, parent)| parent.join(to));
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match (parent.canonicalize(), path.file_name()) {
            (Ok(parent), Some(name)) => parent.join(name),
            _ => path,
        }
    })
}

/// Warns when the name of an output promises another format than it is written in.
pub(crate) fn check_name(path: &Path, format: Format, reporter: &Reporter) {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let Some(other) = extension else { return };
    let (what, own, name) = match format {
        Format::Picture => ("pictures", "png", "PNG"),
        Format::Plot => ("plots", "svg", "SVG"),
        Format::Tensors => ("latents", "safetensors", "safetensors"),
    };
    let promises = [
        "png",
        "jpg",
        "jpeg",
        "webp",
        "gif",
        "bmp",
        "tif",
        "tiff",
        "svg",
        "pdf",
        "safetensors",
        "npy",
        "npz",
        "pt",
    ];
    if other != own && promises.contains(&other.as_str()) {
        reporter.warn(format!(
            "{what} are written as {name}, whatever the name: {} says {other}",
            path.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_however_it_is_spelled() {
        let desk = tempfile::tempdir().unwrap();
        let at = |name: &str| desk.path().join(name);
        std::fs::create_dir(at("a")).unwrap();
        std::fs::write(at("here.png"), "").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("new.png", at("link.png")).unwrap();
        for (one, other, same) in [
            ("here.png", "a/../here.png", true),
            ("new.png", "./a/../new.png", true),
            ("new.png", "a/new.png", false),
            ("none/x.png", "none/x.png", true),
            ("none/x.png", "none/y.png", false),
            #[cfg(unix)]
            ("link.png", "new.png", true),
        ] {
            assert_eq!(identity(&at(one)) == identity(&at(other)), same, "{one} {other}");
        }
        let (here, there) = (at("here.png"), at("a/../here.png"));
        let error = check([("--image", Some(&*here))], &[("--output", &there)]).unwrap_err();
        assert!(
            error.status == 2 && error.message.starts_with("--image and --output name the same file, "),
            "{error:?}"
        );
        check([("--image", Some(&*here)), ("--resume", None)], &[("--output", &at("new.png"))]).unwrap();
    }
}
